//! Steps that several operations on instances share.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    context::Context,
    delete_instance::DeleteInstanceParameters,
    plan::{End, commit, nothing},
    pursuit::{pursue, pursue_anew},
};
use crate::{
    domain::{
        Error, Reason, Result,
        instance::{Condition, Instance, ServerGoal, State, Status},
        operation::{Failure, Outcome},
        provider::{Disposal, Goal},
        version::Version,
    },
    pg::Client,
    store::{Tx, lease::Claim},
};

/// How long the server of a deleted instance may take to stop in order: its data is kept.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a server may take to stop in order whose data is deleted too.
const LITTLE_PATIENCE: Duration = Duration::from_secs(10);

/// Has the active server run, with the settings on record; the instance is READY then. The
/// supervisor starts the other ones.
pub(super) async fn run(context: &Context) -> Result<End> {
    let server = context.server().await?;
    let uid = server.uid;
    let pursued = pursue_anew(context, vec![server], Goal::Running).await?;
    pursued.and_then(ready(context, uid, None)).await
}

/// The first start of a server, on another port if its own was taken meanwhile.
pub(super) async fn run_first(context: &Context) -> Result<End> {
    let server = context.server().await?;
    if server.system_identifier.is_none() {
        // Cached where this process accepted the creation.
        let provider = context.engine.servers.provider_of(&server.provider)?;
        provider
            .check_parameters(server.version, &server.parameters)
            .await?;
    }
    match run(context).await {
        Err(error) if error.reason() == Reason::PortTaken => {
            context
                .engine
                .ports
                .move_port(&context.claim, &server)
                .await?;
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

/// Has a server run again after it died. It may run already: a try that was cut off started
/// it, or it came up by itself. Only the active one changes the state of the instance.
pub(super) async fn recover(context: &Context) -> Result<End> {
    let server = context.server().await?;
    let uid = server.uid;
    let pursued = pursue(context, vec![server], Goal::Running).await?;
    match uid == context.claim.target_uid {
        true => pursued.and_then(up_again(context)).await,
        false => pursued.and_then(recovered(context, uid)).await,
    }
}

/// The end of the active server stays visible as a condition.
async fn recovered(context: &Context, server: Uuid) -> Result<End> {
    let recovery: RecoverParameters = context.parameters()?;
    let happened = || Condition {
        kind: "ServerRestarted".into(),
        status: Status::True,
        reason: "SERVER_ENDED".into(),
        message: "the server's process had ended and was started again".into(),
        time: context.engine.clock.now(),
    };
    ready(context, server, recovery.ended.then(happened)).await
}

/// The server that the operation names takes connections again.
async fn up_again(context: &Context) -> Result<End> {
    let instance = context.instance().await?;
    let server = context.server_of(&instance)?;
    let client = context
        .engine
        .servers
        .connection_to(&instance, server, "postgres");
    let version = version_of(&*client.await?);
    let (uid, server, kind) = (instance.uid, server.uid, server.availability());
    Ok(commit(move |tx| {
        Box::pin(async move {
            tx.mark_server_started(server, version).await?;
            tx.clear_instance_condition(uid, &kind).await
        })
    }))
}

/// What a server runs: its programs may have been exchanged for a newer minor.
fn version_of(client: &Client) -> Option<Version> {
    let version = client.server_version().split(' ').next();
    version.and_then(|version| version.parse().ok())
}

async fn ready(context: &Context, server: Uuid, happened: Option<Condition>) -> Result<End> {
    let uid = context.claim.target_uid;
    let instance = context.instance().await?;
    let client = context.engine.servers.close_to_public(&instance).await?;
    let version = version_of(&client);
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

/// Stops the servers.
pub(super) async fn stop(context: &Context) -> Result<End> {
    let servers = context.servers().await?;
    let pursued = pursue_anew(context, servers, Goal::Stopped).await?;
    pursued.and_then(done()).await
}

/// Stops servers whose data goes too.
pub(super) async fn stop_at_any_cost(context: &Context) -> Result<End> {
    let patience = LITTLE_PATIENCE;
    let servers = context.servers().await?;
    let pursued = pursue_anew(context, servers, Goal::StoppedAtAnyCost { patience }).await?;
    pursued.and_then(done()).await
}

/// Stops the servers of an instance that is deleted; their data is kept for a while.
pub(super) async fn stop_and_keep(context: &Context) -> Result<End> {
    let patience = PATIENCE;
    let servers = context.servers().await?;
    let pursued = pursue_anew(context, servers, Goal::StoppedAtAnyCost { patience }).await?;
    pursued.and_then(deleted(context)).await
}

async fn deleted(context: &Context) -> Result<End> {
    let parameters: DeleteInstanceParameters = context.parameters()?;
    let uid = context.claim.target_uid;
    let status = Status::False;
    let available = available(context, status, "DELETED", "the instance was deleted");
    std::future::ready(()).await;
    Ok(commit(move |tx| {
        Box::pin(async move {
            tx.mark_instance_deleted(uid, parameters.keep_seconds)
                .await?;
            tx.set_instance_condition(uid, &available).await
        })
    }))
}

/// Stops the servers for good: the instance is STOPPED then.
pub(super) async fn stop_and_stay(context: &Context) -> Result<End> {
    let servers = context.servers().await?;
    let pursued = pursue_anew(context, servers, Goal::Stopped).await?;
    pursued.and_then(stopped(context)).await
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

/// Removes the servers of a creation that failed; no client has used them.
pub(super) async fn discard(context: &Context) -> Result<End> {
    let servers = context.servers().await?;
    let pursued = pursue(context, servers, Goal::Gone(Disposal::Delete)).await?;
    pursued.and_then(done()).await
}

async fn done() -> Result<End> {
    std::future::ready(()).await;
    Ok(nothing())
}

/// Forgets the instance; its id and ports are free.
pub(super) async fn forget(context: &Context) -> Result<End> {
    let uid = context.claim.target_uid;
    std::future::ready(()).await;
    Ok(commit(move |tx| Box::pin(tx.remove_instance(uid))))
}

/// Takes the servers away, and forgets the instance. The data of an ephemeral one is never
/// kept.
pub(super) async fn remove(context: &Context, disposal: Disposal) -> Result<End> {
    let goal = match context.instance().await?.ephemeral {
        true => Goal::Gone(Disposal::Delete),
        false => Goal::Gone(disposal),
    };
    let pursued = pursue(context, context.servers().await?, goal).await?;
    pursued.and_then(forget(context)).await
}

/// The instance as it is in the last commit, which has changed its row: a turn at the
/// instance cannot be waited for any more, since others wait for the row in their turn.
pub(super) async fn instance(tx: &mut Tx, uid: Uuid) -> Result<Outcome> {
    let mut found = picture(tx, uid).await?;
    // The operation ends with the commit that this picture is taken in.
    found.reconciling = false;
    Ok(Outcome::Instance(Box::new(found)))
}

/// As [`instance`], of an operation that may have a server of the instance as its target.
pub(super) async fn instance_of(tx: &mut Tx, uid: Uuid) -> Result<Outcome> {
    match tx.owner_of_server(uid).await? {
        Some(owner) => Ok(Outcome::Instance(Box::new(picture(tx, owner).await?))),
        None => instance(tx, uid).await,
    }
}

async fn picture(tx: &mut Tx, uid: Uuid) -> Result<Instance> {
    let found = tx.instance_by_uid(uid).await?;
    found.ok_or_else(|| Error::internal(format!("instance {uid} is gone")))
}

/// Records why a server was not recovered.
pub(super) async fn mark_not_recovered(tx: &mut Tx, claim: &Claim, why: &Failure) -> Result<()> {
    let Some(parent) = claim.parent_uid else {
        return mark_failed(tx, claim, why).await;
    };
    let Some(instance) = tx.lock_instance_by_uid(parent).await? else {
        return Ok(());
    };
    let Some(server) = instance.server(claim.target_uid) else {
        return Ok(());
    };
    // Its time is replaced by the database's.
    let time = instance.update_time;
    let condition = server.available(Status::False, &why.reason, &why.message, time);
    tx.set_instance_condition(parent, &condition).await
}

/// Marks an instance FAILED. What is to become of its servers stays as it was: one that is
/// to run is tried again after a pause by the supervisor, any other is left alone.
pub(super) async fn mark_failed(tx: &mut Tx, claim: &Claim, why: &Failure) -> Result<()> {
    mark(tx, claim, why, Status::False).await
}

/// Marks an instance FAILED that was to be stopped. Whether its server takes connections
/// is not known: the supervisor looks, and the instance is STOPPED when the server has
/// ended.
pub(super) async fn mark_not_stopped(tx: &mut Tx, claim: &Claim, why: &Failure) -> Result<()> {
    mark(tx, claim, why, Status::Unknown).await
}

async fn mark(tx: &mut Tx, claim: &Claim, why: &Failure, available: Status) -> Result<()> {
    let uid = claim.target_uid;
    let Some(instance) = tx.lock_instance_by_uid(uid).await? else {
        return Ok(());
    };
    // Its time is replaced by the database's.
    let time = instance.update_time;
    let available = Condition::available(available, &why.reason, &why.message, time);
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
        false => tx.want_active(claim.target_uid, ServerGoal::Stopped).await,
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
    Condition::available(status, reason, message, context.engine.clock.now())
}
