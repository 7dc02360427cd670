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

/// Time for a fast shutdown of a deleted instance's server, whose data is kept.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time for a fast shutdown of a server whose data is deleted too.
const LITTLE_PATIENCE: Duration = Duration::from_secs(10);

/// Starts the active server with the parameters on record, and makes the instance READY. The
/// supervisor starts the other servers.
pub(super) async fn run(context: &Context) -> Result<End> {
    let server = context.server().await?;
    let uid = server.uid;
    let pursued = pursue_anew(context, vec![server], Goal::Running).await?;
    pursued.and_then(ready(context, uid, None)).await
}

/// Starts a new server. If another process has taken its port in the meantime, it gets another.
pub(super) async fn run_first(context: &Context) -> Result<End> {
    let server = context.server().await?;
    if server.system_identifier.is_none() {
        // Fast if this process has accepted the creation: the parameters are in its cache.
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

/// Parameters of a recovery.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::app) struct RecoverParameters {
    /// Whether the server's process has ended. Otherwise the server came up after the instance
    /// was marked FAILED.
    pub(in crate::app) ended: bool,
}

/// Starts a server again after its end. The server may be up already: an earlier attempt has
/// started it, or it came up by itself. Only the active server changes the instance's state.
pub(super) async fn recover(context: &Context) -> Result<End> {
    let server = context.server().await?;
    let uid = server.uid;
    let pursued = pursue(context, vec![server], Goal::Running).await?;
    match uid == context.claim.target_uid {
        true => pursued.and_then(up_again(context)).await,
        false => pursued.and_then(recovered(context, uid)).await,
    }
}

/// Makes the instance READY. If the active server had ended, a condition keeps showing that.
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

/// Records that the server of the operation, not the active one, accepts connections again.
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

/// Version of the running server. Its programs may have been replaced by a newer minor version.
fn version_of(client: &Client) -> Option<Version> {
    let version = client.server_version().split(' ').next();
    version.and_then(|version| version.parse().ok())
}

/// Makes the instance READY, and wakes the operations on its databases, which may wait for the
/// server.
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

/// Stops the servers, before another step.
pub(super) async fn stop(context: &Context) -> Result<End> {
    let servers = context.servers().await?;
    let pursued = pursue_anew(context, servers, Goal::Stopped).await?;
    pursued.and_then(done()).await
}

/// Stops servers whose data will be deleted.
pub(super) async fn stop_at_any_cost(context: &Context) -> Result<End> {
    let patience = LITTLE_PATIENCE;
    let servers = context.servers().await?;
    let pursued = pursue_anew(context, servers, Goal::StoppedAtAnyCost { patience }).await?;
    pursued.and_then(done()).await
}

/// Stops the servers of an instance that is being deleted. Their data is kept for a while.
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

/// Stops the servers, and makes the instance STOPPED.
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

/// Removes the servers of a failed creation, with their data: no client has used them.
pub(super) async fn discard(context: &Context) -> Result<End> {
    let servers = context.servers().await?;
    let pursued = pursue(context, servers, Goal::Gone(Disposal::Delete)).await?;
    pursued.and_then(done()).await
}

async fn done() -> Result<End> {
    std::future::ready(()).await;
    Ok(nothing())
}

/// Removes the records of the instance, which frees its id and its ports.
pub(super) async fn forget(context: &Context) -> Result<End> {
    let uid = context.claim.target_uid;
    std::future::ready(()).await;
    Ok(commit(move |tx| Box::pin(tx.remove_instance(uid))))
}

/// Removes the servers, then the records of the instance. The data of an ephemeral server is
/// never kept.
pub(super) async fn remove(context: &Context, disposal: Disposal) -> Result<End> {
    let goal = match context.instance().await?.ephemeral {
        true => Goal::Gone(Disposal::Delete),
        false => Goal::Gone(disposal),
    };
    let pursued = pursue(context, context.servers().await?, goal).await?;
    pursued.and_then(forget(context)).await
}

/// Reads the instance in the last commit of an operation. The commit has locked the row already.
/// So this must not queue for a turn at the instance: others hold a turn and wait for the row.
pub(super) async fn instance(tx: &mut Tx, uid: Uuid) -> Result<Outcome> {
    let mut found = picture(tx, uid).await?;
    // The record is read before the commit that ends the operation, so the field is still set.
    found.reconciling = false;
    Ok(Outcome::Instance(Box::new(found)))
}

/// Like [`instance`], for an operation whose target may be a server of the instance.
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

/// Records why a server was not recovered: for the active server as FAILED, for another server
/// as a condition.
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
    // The store replaces this time by the database's.
    let time = instance.update_time;
    let condition = server.available(Status::False, &why.reason, &why.message, time);
    tx.set_instance_condition(parent, &condition).await
}

/// Marks an instance FAILED. The goals of its servers stay: the supervisor retries a server that
/// shall run after a pause, and leaves any other server alone.
pub(super) async fn mark_failed(tx: &mut Tx, claim: &Claim, why: &Failure) -> Result<()> {
    mark(tx, claim, why, Status::False).await
}

/// Marks an instance FAILED because its server did not stop. It is unknown whether the server
/// accepts connections. The supervisor watches it, and makes the instance STOPPED when the
/// server has ended.
pub(super) async fn mark_not_stopped(tx: &mut Tx, claim: &Claim, why: &Failure) -> Result<()> {
    mark(tx, claim, why, Status::Unknown).await
}

async fn mark(tx: &mut Tx, claim: &Claim, why: &Failure, available: Status) -> Result<()> {
    let uid = claim.target_uid;
    let Some(instance) = tx.lock_instance_by_uid(uid).await? else {
        return Ok(());
    };
    // The store replaces this time by the database's.
    let time = instance.update_time;
    let available = Condition::available(available, &why.reason, &why.message, time);
    tx.set_instance_state(uid, State::Failed).await?;
    tx.set_instance_condition(uid, &available).await
}

/// Errors of a start after which the server may be up, or may still come up.
const PERHAPS_UP: [Reason; 4] = [
    Reason::ServerUnavailable,
    Reason::LockTimeout,
    Reason::RightMissing,
    Reason::PostgresqlRefused,
];

/// Marks an instance FAILED because its server did not start. If the server may be up its goal
/// stays "running", and the supervisor can make the instance READY. Otherwise the goal becomes
/// "stopped", and the server is left alone.
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

/// Marks an instance FAILED because its restart failed. If the stop failed the goal stays
/// "running": the server may be up, or may end later and then be started again.
pub(super) async fn mark_not_restarted(tx: &mut Tx, claim: &Claim, why: &Failure) -> Result<()> {
    match claim.position {
        0 => mark_failed(tx, claim, why).await,
        _ => mark_not_started(tx, claim, why).await,
    }
}

fn available(context: &Context, status: Status, reason: &str, message: &str) -> Condition {
    Condition::available(status, reason, message, context.engine.clock.now())
}
