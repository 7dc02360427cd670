//! Steps that several operations on instances share.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    context::Context,
    delete_instance::DeleteInstanceParameters,
    plan::{Commit, End, commit, nothing},
};
use crate::{
    domain::{
        Error, Reason, Result,
        instance::{Condition, ServerGoal, State, Status},
        operation::{self, Failure, Outcome},
        provider::{Disposal, Goal, Learnt, Next, ServerSpec},
        version::Version,
    },
    store::{Tx, lease::Claim},
};

/// How long the server of a deleted instance may take to stop in order: its data is kept.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a server may take to stop in order whose data is deleted too.
const LITTLE_PATIENCE: Duration = Duration::from_secs(10);

/// The rest of a step, after the server has reached its goal.
type AndThen = for<'a> fn(&'a Context, &'a ServerSpec) -> BoxFuture<'a, Result<End>>;

/// As [`pursue`], by the wish of a user: how often the server was recovered before does not
/// matter any more.
async fn pursue_anew(context: &Context, goal: Goal, then: AndThen) -> Result<End> {
    context.app.watched.forget(context.claim.target_uid);
    pursue(context, goal, then).await
}

/// Brings the server to a goal, look by look, and then goes on.
async fn pursue(context: &Context, goal: Goal, then: AndThen) -> Result<End> {
    refuse_unnamed(context, &goal)?;
    let server = context.server().await?;
    let provider = context.app.provider_of(&server.provider)?;
    let advance = provider
        .advance(&server, goal, context.claim.pursued)
        .await?;
    let learnt = advance.learnt;
    let uid = server.uid;
    match advance.next {
        Next::Later(wait) if learnt == Learnt::default() => Ok(End::Later(None, wait)),
        Next::Later(wait) => {
            let learn: Commit =
                Box::new(move |tx| Box::pin(async move { tx.learn(uid, &learnt).await }));
            Ok(End::Later(Some(learn), wait))
        }
        Next::Done => match then(context, &server).await? {
            End::Done(work) => Ok(commit(move |tx| {
                Box::pin(async move {
                    tx.learn(uid, &learnt).await?;
                    work(tx).await
                })
            })),
            waits => Ok(waits),
        },
    }
}

/// Refuses a goal that the step does not name in its plan: the crash table would have no
/// rows for it.
fn refuse_unnamed(context: &Context, goal: &Goal) -> Result<()> {
    let named = context.step().and_then(|step| match context.claim.state {
        operation::State::Undoing => step.undo_goal,
        _ => step.goal,
    });
    match named {
        Some(named) if named.is_of(goal) => Ok(()),
        _ => Err(Error::internal(format!(
            "a step of {} pursues {goal:?}, and names {named:?}",
            context.claim.kind
        ))),
    }
}

/// Has the server run, with the settings on record; it is READY then.
pub(super) async fn run(context: &Context) -> Result<End> {
    pursue_anew(context, Goal::Running, |context, server| {
        Box::pin(ready(context, server.uid, None))
    })
    .await
}

/// The first start of a server, on another port if its own was taken meanwhile.
pub(super) async fn run_first(context: &Context) -> Result<End> {
    let server = context.server().await?;
    if server.system_identifier.is_none() {
        // Cached where this process accepted the creation.
        let provider = context.app.provider_of(&server.provider)?;
        provider
            .check_parameters(server.version, &server.parameters)
            .await?;
    }
    match run(context).await {
        Err(error) if error.reason() == Reason::PortTaken => {
            context.app.move_port(&context.claim, &server).await?;
            run(context).await
        }
        ended => ended,
    }
}

/// What a recovery is asked for with.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) struct RecoverParameters {
    /// Whether the server's process has ended; else it came up after its start was given up.
    pub(in crate::app) ended: bool,
}

/// Has the server run again after it died, which stays visible as a condition. It may run
/// already: a try that was cut off started it, or it came up by itself.
pub(super) async fn recover(context: &Context) -> Result<End> {
    pursue(context, Goal::Running, |context, server| {
        Box::pin(async move {
            let recovery: RecoverParameters = context.parameters()?;
            let happened = || Condition {
                kind: "ServerRestarted".into(),
                status: Status::True,
                reason: "SERVER_ENDED".into(),
                message: "the server's process had ended and was started again".into(),
                time: context.app.parts.clock.now(),
            };
            ready(context, server.uid, recovery.ended.then(happened)).await
        })
    })
    .await
}

async fn ready(context: &Context, server: Uuid, happened: Option<Condition>) -> Result<End> {
    let uid = context.claim.target_uid;
    let instance = context.instance().await?;
    let client = context.app.close_to_public(&instance).await?;
    // Its programs may have been exchanged for a newer minor.
    let version = client.server_version().split(' ').next();
    let version: Option<Version> = version.and_then(|version| version.parse().ok());
    drop(client);
    let message = "the server takes connections";
    let available = available(context, Status::True, "SERVER_RUNNING", message);
    Ok(commit(move |tx| {
        Box::pin(async move {
            tx.mark_server_started(server, version).await?;
            tx.set_instance_state(uid, State::Ready).await?;
            tx.set_instance_condition(uid, &available).await?;
            if let Some(happened) = happened {
                tx.set_instance_condition(uid, &happened).await?;
            }
            tx.wake_children(uid).await
        })
    }))
}

/// Stops the server.
pub(super) async fn stop(context: &Context) -> Result<End> {
    pursue_anew(context, Goal::Stopped, |_, _| done()).await
}

/// Stops a server whose data goes too.
pub(super) async fn stop_at_any_cost(context: &Context) -> Result<End> {
    let patience = LITTLE_PATIENCE;
    pursue_anew(context, Goal::StoppedAtAnyCost { patience }, |_, _| done()).await
}

/// Stops the server of an instance that is deleted; its data is kept for a while.
pub(super) async fn stop_and_keep(context: &Context) -> Result<End> {
    let patience = PATIENCE;
    pursue_anew(
        context,
        Goal::StoppedAtAnyCost { patience },
        |context, _| {
            Box::pin(async move {
                let parameters: DeleteInstanceParameters = context.parameters()?;
                let uid = context.claim.target_uid;
                let status = Status::False;
                let available = available(context, status, "DELETED", "the instance was deleted");
                Ok(commit(move |tx| {
                    Box::pin(async move {
                        tx.mark_instance_deleted(uid, parameters.keep_seconds)
                            .await?;
                        tx.set_instance_condition(uid, &available).await
                    })
                }))
            })
        },
    )
    .await
}

/// Stops the server for good: it is STOPPED then.
pub(super) async fn stop_and_stay(context: &Context) -> Result<End> {
    pursue_anew(context, Goal::Stopped, |context, _| {
        Box::pin(stopped(context))
    })
    .await
}

async fn stopped(context: &Context) -> Result<End> {
    let uid = context.claim.target_uid;
    let message = "the instance was stopped";
    let available = available(context, Status::False, "STOPPED", message);
    std::future::ready(()).await;
    Ok(commit(move |tx| {
        Box::pin(async move {
            tx.set_instance_state(uid, State::Stopped).await?;
            tx.set_instance_condition(uid, &available).await
        })
    }))
}

/// Removes the server of a creation that failed; no client has used it.
pub(super) async fn discard(context: &Context) -> Result<End> {
    pursue(context, Goal::Gone(Disposal::Delete), |_, _| done()).await
}

fn done<'a>() -> BoxFuture<'a, Result<End>> {
    Box::pin(std::future::ready(Ok(nothing())))
}

/// Forgets the instance; its id and port are free.
pub(super) async fn forget(context: &Context) -> Result<End> {
    let uid = context.claim.target_uid;
    std::future::ready(()).await;
    Ok(commit(move |tx| Box::pin(tx.remove_instance(uid))))
}

/// Takes the server away, and forgets the instance. The data of an ephemeral one is never
/// kept.
pub(super) async fn remove(context: &Context, disposal: Disposal) -> Result<End> {
    let goal = match context.instance().await?.ephemeral {
        true => Goal::Gone(Disposal::Delete),
        false => Goal::Gone(disposal),
    };
    pursue(context, goal, |context, _| {
        let uid = context.claim.target_uid;
        Box::pin(std::future::ready(Ok(commit(move |tx| {
            Box::pin(tx.remove_instance(uid))
        }))))
    })
    .await
}

/// The instance as it is in the last commit, which has changed its row: a turn at the
/// instance cannot be waited for any more, since others wait for the row in their turn.
pub(super) async fn instance(tx: &mut Tx, uid: Uuid) -> Result<Outcome> {
    let found = tx.instance_by_uid(uid).await?;
    let mut found = found.ok_or_else(|| Error::internal(format!("instance {uid} is gone")))?;
    // The operation ends with the commit that this picture is taken in.
    found.reconciling = false;
    Ok(Outcome::Instance(Box::new(found)))
}

/// Marks an instance FAILED. What is to become of its server stays as it was: one that is
/// to run is tried again after a pause by the supervisor, any other is left alone.
pub(super) async fn mark_failed(tx: &mut Tx, claim: &Claim, why: &Failure) -> Result<()> {
    let uid = claim.target_uid;
    let Some(instance) = tx.lock_instance_by_uid(uid).await? else {
        return Ok(());
    };
    // Its time is replaced by the database's.
    let time = instance.update_time;
    let available = Condition::available(Status::False, &why.reason, &why.message, time);
    tx.set_instance_state(uid, State::Failed).await?;
    tx.set_instance_condition(uid, &available).await
}

/// Reasons of a start that fails while the server is up, or may still come up.
const PERHAPS_UP: [Reason; 4] = [
    Reason::ServerUnavailable,
    Reason::LockTimeout,
    Reason::RightMissing,
    Reason::PostgresqlRefused,
];

/// Marks an instance FAILED that was to be started. A server that may be up is still to
/// run, so that the supervisor makes the instance READY; any other is left alone.
pub(super) async fn mark_not_started(tx: &mut Tx, claim: &Claim, why: &Failure) -> Result<()> {
    let perhaps_up = PERHAPS_UP
        .iter()
        .any(|reason| reason.as_str() == why.reason);
    mark_failed(tx, claim, why).await?;
    match perhaps_up {
        true => Ok(()),
        false => tx.want(claim.target_uid, ServerGoal::Stopped).await,
    }
}

/// Marks an instance FAILED that was to be stopped and started. A server that did not stop
/// is still to run: it may be up, or end later.
pub(super) async fn mark_not_restarted(tx: &mut Tx, claim: &Claim, why: &Failure) -> Result<()> {
    match claim.position {
        0 => mark_failed(tx, claim, why).await,
        _ => mark_not_started(tx, claim, why).await,
    }
}

fn available(context: &Context, status: Status, reason: &str, message: &str) -> Condition {
    Condition::available(status, reason, message, context.app.parts.clock.now())
}
