//! What a long operation is made of.

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

/// Tries of a step, as a rule. With the pauses between them this is about four minutes.
pub(crate) const TRIES: i32 = 15;

/// What a step writes in the transaction that makes it done.
pub(crate) type Commit = Box<dyn for<'a> FnOnce(&'a mut Tx) -> BoxFuture<'a, Result<()>> + Send>;

/// How a try of a step ended that did not fail.
pub(crate) enum End {
    /// It is done with that commit, which happens once.
    Done(Commit),
    /// It waits for something outside. What became known commits, if anything did, and the
    /// worker is free.
    Later(Option<Commit>, Wait),
}

/// The work of a step: an effect outside the metadata, which may run twice.
pub(crate) type Act = for<'a> fn(&'a Context) -> BoxFuture<'a, Result<End>>;

/// Longest that a step waits for something outside, from its first look on. Undoing waits
/// without an end.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// A kind of long operation.
pub(crate) struct Plan {
    /// Name of the kind, as in `instance.create`.
    pub(crate) kind: &'static str,
    /// Raised when steps change; a worker claims only versions that it knows.
    pub(crate) version: i32,
    /// What it does, as clients see it.
    pub(crate) verb: &'static str,
    /// Whether it waits for what works on the children of its resource: nothing new is
    /// accepted for them meanwhile.
    pub(crate) after_children: bool,
    /// When another wish for its resource takes its place.
    pub(crate) gives_way: GivesWay,
    /// Tries of a step before it is given up.
    pub(crate) tries: i32,
    /// Its steps, in order.
    pub(crate) steps: &'static [Step],
    /// What it answers: a picture of the resource, taken in the last commit.
    pub(crate) outcome: for<'a> fn(&'a mut Tx, Uuid) -> BoxFuture<'a, Result<Outcome>>,
    /// What is written when it ends without success.
    pub(crate) abandon: for<'a> fn(&'a mut Tx, &'a Claim, &'a Failure) -> BoxFuture<'a, Result<()>>,
}

/// A step of a plan.
pub(crate) struct Step {
    /// Name, unique in the plan.
    pub(crate) name: &'static str,
    /// One phrase for people.
    pub(crate) title: &'static str,
    /// Does it.
    pub(crate) act: Act,
    /// Takes it back, also when it was done in part or not at all.
    pub(crate) undo: Option<Act>,
    /// The goal that `act` has the provider pursue, if its effect is on the server itself.
    /// The crash table knows by it which points and waits of a provider the step passes.
    pub(crate) goal: Option<GoalKind>,
    /// The same of `undo`.
    pub(crate) undo_goal: Option<GoalKind>,
    /// Points in the middle of its own SQL at which a test can kill the process.
    pub(crate) failpoints: &'static [&'static str],
}

impl Plan {
    /// Kind and version, as workers claim by.
    pub(crate) fn key(&self) -> String {
        format!("{}@{}", self.kind, self.version)
    }

    /// The step at that position.
    pub(crate) fn step(&self, position: i32) -> Option<&'static Step> {
        self.steps.get(usize::try_from(position).ok()?)
    }

    /// Whether every step can be taken back.
    pub(crate) fn cancellable(&self) -> bool {
        self.steps.iter().all(|step| step.undo.is_some())
    }
}

/// The end of a step that is done when `work` is written.
pub(crate) fn commit<F>(work: F) -> End
where
    F: for<'a> FnOnce(&'a mut Tx) -> BoxFuture<'a, Result<()>> + Send + 'static,
{
    End::Done(Box::new(work))
}

/// The end of a step that has nothing to write but that it is done.
pub(crate) fn nothing() -> End {
    commit(|_| Box::pin(std::future::ready(Ok(()))))
}
