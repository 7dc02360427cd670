//! The plan of a long operation: its steps, and what happens at its end.

use std::time::Duration;

use futures::future::BoxFuture;
use uuid::Uuid;

use super::context::Context;
use crate::{
    domain::{
        Result,
        operation::{Failure, GivesWay, Outcome},
        provider::{GoalKind, Wait},
    },
    store::{Tx, lease::Claim},
};

/// Default number of attempts at a step. With the pauses this takes about four minutes.
pub(crate) const TRIES: i32 = 15;

/// Attempts at a step that is retried for as long as time may help, and may wait without a limit.
pub(crate) const WITHOUT_END: i32 = i32::MAX;

/// The writes of a step, in the transaction that marks the step as done.
pub(crate) type Commit = Box<dyn for<'a> FnOnce(&'a mut Tx) -> BoxFuture<'a, Result<()>> + Send>;

/// Result of an attempt that did not fail.
pub(crate) enum End {
    /// The step is done. The commit runs exactly once.
    Done(Commit),
    /// The step waits for something outside. The commit, if any, stores what has become known.
    /// Then the worker is released.
    Later(Option<Commit>, Wait),
}

/// The effect of a step outside the metadata. It may run twice.
pub(crate) type Act = for<'a> fn(&'a Context) -> BoxFuture<'a, Result<End>>;

/// Longest time that a step waits for something outside, from its first look. An undo waits
/// without a limit, and so does a plan with [`WITHOUT_END`].
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// A kind of long operation.
pub(crate) struct Plan {
    /// Name of the kind, such as `instance.create`.
    pub(crate) kind: &'static str,
    /// Version of the steps. Raise it when they change: workers claim only versions that they
    /// know.
    pub(crate) version: i32,
    /// The verb that clients see.
    pub(crate) verb: &'static str,
    /// Whether the operation waits until no other operation works on the children of its
    /// resource. New operations on the children are refused meanwhile.
    pub(crate) after_children: bool,
    /// Whether another request for the same resource can replace it.
    pub(crate) gives_way: GivesWay,
    /// Attempts at a step before the operation gives up.
    pub(crate) tries: i32,
    /// The steps, in order.
    pub(crate) steps: &'static [Step],
    /// Reads the operation's response, a resource, in its last transaction.
    pub(crate) outcome: for<'a> fn(&'a mut Tx, Uuid) -> BoxFuture<'a, Result<Outcome>>,
    /// Writes the end without success, in the last transaction.
    pub(crate) abandon: for<'a> fn(&'a mut Tx, &'a Claim, &'a Failure) -> BoxFuture<'a, Result<()>>,
}

/// A step of a plan.
pub(crate) struct Step {
    /// Name, unique in the plan. It is part of the names of failpoints.
    pub(crate) name: &'static str,
    /// Title that clients see.
    pub(crate) title: &'static str,
    /// The effect.
    pub(crate) act: Act,
    /// Takes the effect back. The effect may have happened completely, in part or not at all.
    pub(crate) undo: Option<Act>,
    /// The goal that `act` pursues with a provider; none if it does not. The crash tests use it to
    /// know which failpoints and waits of the provider the step passes.
    pub(crate) goal: Option<GoalKind>,
    /// The goal that `undo` pursues with a provider.
    pub(crate) undo_goal: Option<GoalKind>,
    /// Failpoints in the middle of the step's own SQL, at which a test can kill the process.
    pub(crate) failpoints: &'static [&'static str],
}

impl Plan {
    /// Kind and version in one text; claims filter by it.
    pub(crate) fn key(&self) -> String {
        format!("{}@{}", self.kind, self.version)
    }

    /// The step at a position; none after the last step.
    pub(crate) fn step(&self, position: i32) -> Option<&'static Step> {
        self.steps.get(usize::try_from(position).ok()?)
    }

    /// Whether every step has an undo. Only then can the operation be cancelled.
    pub(crate) fn cancellable(&self) -> bool {
        self.steps.iter().all(|step| step.undo.is_some())
    }
}

/// The end of a step that is done when `work` is committed.
pub(crate) fn commit<F>(work: F) -> End
where
    F: for<'a> FnOnce(&'a mut Tx) -> BoxFuture<'a, Result<()>> + Send + 'static,
{
    End::Done(Box::new(work))
}

/// The end of a step that has nothing of its own to write.
pub(crate) fn nothing() -> End {
    commit(|_| Box::pin(std::future::ready(Ok(()))))
}
