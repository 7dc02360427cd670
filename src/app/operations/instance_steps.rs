//! Steps that several operations on instances share.

use std::time::Duration;

use super::{
    context::Context,
    plan::{Commit, commit, nothing},
};
use crate::{
    domain::{
        Error, Reason, Result,
        clock::Clock,
        instance::{Condition, State, Status},
        operation::{Failure, Outcome},
        provider::{Disposal, Presence},
        version::Version,
    },
    store::{Tx, lease::Claim},
};
use uuid::Uuid;

/// Points in the middle of [`start`].
pub(super) const START_POINTS: &[&str] = &[
    "local.configure.before_rename",
    "local.configure.after_rename",
    "local.start.after_spawn",
    "local.start.after_start",
];

/// Longest wait for a fast shutdown before a server whose data is deleted too is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes the data directory.
pub(super) async fn initialize(context: &Context) -> Result<Commit> {
    let server = context.server().await?;
    let provider = context.app.provider();
    // Known by heart where the creation was accepted on this host.
    provider
        .check_parameters(server.version, &server.parameters)
        .await?;
    let identifier = provider.initialize(&server).await?;
    Ok(commit(move |tx| {
        Box::pin(tx.set_system_identifier(server.uid, identifier))
    }))
}

/// Deletes the data directory.
pub(super) async fn discard(context: &Context) -> Result<Commit> {
    let server = context.server().await?;
    let provider = context.app.provider();
    provider.remove(&server, Disposal::Delete).await?;
    Ok(nothing())
}

/// Writes the settings and starts the server; it is READY then.
pub(super) async fn start(context: &Context) -> Result<Commit> {
    let server = context.server().await?;
    let provider = context.app.provider();
    if provider.inspect(&server).await? != Presence::Running {
        provider.configure(&server).await?;
    }
    provider.start(&server).await?;
    ready(context, server.uid, None).await
}

/// The first start of a server, on another port if its own was taken meanwhile.
pub(super) async fn start_first(context: &Context) -> Result<Commit> {
    match start(context).await {
        Err(error) if error.reason() == Reason::PortTaken => {
            let server = context.server().await?;
            context.app.move_port(&context.claim, &server).await?;
            start(context).await
        }
        started => started,
    }
}

/// Starts the server after it died, which stays visible as a condition.
pub(super) async fn recover(context: &Context) -> Result<Commit> {
    let server = context.server().await?;
    // That it runs already is what a try that was cut off has left.
    context.app.provider().start(&server).await?;
    let happened = condition(
        context,
        "ServerRestarted",
        Status::True,
        "SERVER_ENDED",
        "the server's process had ended and was started again",
    );
    ready(context, server.uid, Some(happened)).await
}

async fn ready(context: &Context, server: Uuid, happened: Option<Condition>) -> Result<Commit> {
    let uid = context.claim.target_uid;
    let instance = context.instance().await?;
    let client = context.app.close_to_public(&instance).await?;
    // Its programs may have been exchanged for a newer minor.
    let version = client.server_version().split(' ').next();
    let version: Option<Version> = version.and_then(|version| version.parse().ok());
    drop(client);
    let available = condition(
        context,
        "Available",
        Status::True,
        "SERVER_RUNNING",
        "the server takes connections",
    );
    Ok(commit(move |tx| {
        Box::pin(async move {
            tx.mark_server_started(server, version).await?;
            tx.set_instance_state(uid, State::Ready, true).await?;
            tx.set_instance_condition(uid, &available).await?;
            if let Some(happened) = happened {
                tx.set_instance_condition(uid, &happened).await?;
            }
            Ok(())
        })
    }))
}

/// Stops the server.
pub(super) async fn stop(context: &Context) -> Result<Commit> {
    let server = context.server().await?;
    context.app.provider().stop(&server).await?;
    Ok(nothing())
}

/// Stops a server whose data goes too.
pub(super) async fn stop_at_any_cost(context: &Context) -> Result<Commit> {
    let server = context.server().await?;
    let provider = context.app.provider();
    provider.stop_at_any_cost(&server, PATIENCE).await?;
    Ok(nothing())
}

/// Stops the server for good: it is STOPPED then.
pub(super) async fn stop_and_stay(context: &Context) -> Result<Commit> {
    let server = context.server().await?;
    context.app.provider().stop(&server).await?;
    let uid = context.claim.target_uid;
    let available = condition(
        context,
        "Available",
        Status::False,
        "STOPPED",
        "the instance was stopped",
    );
    Ok(commit(move |tx| {
        Box::pin(async move {
            tx.set_instance_state(uid, State::Stopped, false).await?;
            tx.set_instance_condition(uid, &available).await
        })
    }))
}

/// Forgets the instance; its id and port are free.
pub(super) async fn forget(context: &Context) -> Result<Commit> {
    let uid = context.claim.target_uid;
    std::future::ready(()).await;
    Ok(commit(move |tx| Box::pin(tx.remove_instance(uid))))
}

/// Takes the data away and forgets the instance. That of an ephemeral one is never kept.
pub(super) async fn remove(context: &Context, disposal: Disposal) -> Result<Commit> {
    let server = context.server().await?;
    let disposal = match server.ephemeral {
        true => Disposal::Delete,
        false => disposal,
    };
    context.app.provider().remove(&server, disposal).await?;
    let uid = context.claim.target_uid;
    Ok(commit(move |tx| Box::pin(tx.remove_instance(uid))))
}

/// The instance as it is in the last commit.
pub(super) async fn instance(tx: &mut Tx, uid: Uuid) -> Result<Outcome> {
    let found = tx.lock_instance_by_uid(uid).await?;
    let mut found = found.ok_or_else(|| Error::internal(format!("instance {uid} is gone")))?;
    // The operation ends with the commit that this picture is taken in.
    found.reconciling = false;
    Ok(Outcome::Instance(Box::new(found)))
}

/// Marks an instance FAILED: its server is not what it should be, and is left alone.
pub(super) async fn mark_failed(tx: &mut Tx, claim: &Claim, why: &Failure) -> Result<()> {
    fail(tx, claim, why, false).await
}

/// Marks an instance FAILED whose server did not come up again. It is still meant to
/// run: the supervisor tries again after a pause.
pub(super) async fn mark_down(tx: &mut Tx, claim: &Claim, why: &Failure) -> Result<()> {
    fail(tx, claim, why, true).await
}

async fn fail(tx: &mut Tx, claim: &Claim, why: &Failure, running: bool) -> Result<()> {
    let uid = claim.target_uid;
    let Some(instance) = tx.lock_instance_by_uid(uid).await? else {
        return Ok(());
    };
    let available = Condition {
        kind: "Available".into(),
        status: Status::False,
        reason: why.reason.clone(),
        message: why.message.clone(),
        // Replaced by the database's time.
        time: instance.update_time,
    };
    tx.set_instance_state(uid, State::Failed, running).await?;
    tx.set_instance_condition(uid, &available).await
}

fn condition(
    context: &Context,
    kind: &str,
    status: Status,
    reason: &str,
    message: &str,
) -> Condition {
    let clock: &dyn Clock = context.app.parts.clock.as_ref();
    Condition {
        kind: kind.into(),
        status,
        reason: reason.into(),
        message: message.into(),
        time: clock.now(),
    }
}
