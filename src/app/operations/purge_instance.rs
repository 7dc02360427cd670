//! Lets an instance go for good: its data and its records. Data is deleted at once where
//! somebody asked for that, and goes to the trash where its time has come.

use serde::{Deserialize, Serialize};

use super::{
    context::Context,
    instance_steps as steps,
    plan::{self, End, Plan, Step},
};
use crate::{
    domain::{
        Result,
        operation::{GivesWay, Outcome},
        provider::{Disposal, GoalKind},
    },
    store::{Tx, lease::Claim},
};

/// Seconds until a purge is tried again that has failed.
const PURGE_PAUSE: f64 = 3600.0;

/// What `instance.purge` is accepted with.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct PurgeInstanceParameters {
    /// Whether a user asked for it.
    pub(crate) requested: bool,
}

/// For an instance that is not deleted yet: `DeleteInstance` with `purge`.
pub(crate) const REMOVE_PLAN: Plan = Plan {
    kind: "instance.remove",
    version: 1,
    verb: "delete",
    after_children: true,
    gives_way: GivesWay::Never,
    tries: plan::TRIES,
    steps: &[
        Step {
            name: "stop",
            title: "Stop the server",
            act: |context| Box::pin(steps::stop_at_any_cost(context)),
            undo: None,
            goal: Some(GoalKind::Stopped),
            undo_goal: None,
            failpoints: &[],
        },
        Step {
            name: "remove",
            title: "Delete the data",
            act: |context| Box::pin(steps::remove(context, Disposal::Delete)),
            undo: None,
            goal: Some(GoalKind::Gone),
            undo_goal: None,
            failpoints: &[],
        },
    ],
    outcome: |_, _| Box::pin(std::future::ready(Ok(Outcome::Empty))),
    abandon: |tx, claim, _| Box::pin(keep_purging(tx, claim)),
};

/// Marks an instance DELETED whose server could not be stopped, or whose data is partly
/// removed: the purge is tried again later.
async fn keep_purging(tx: &mut Tx, claim: &Claim) -> Result<()> {
    let uid = claim.target_uid;
    tx.mark_instance_deleted(uid, PURGE_PAUSE).await?;
    tx.delay_purge(uid, PURGE_PAUSE, true).await
}

/// For a deleted instance: its time has come, or somebody asked for it.
pub(crate) const PURGE_PLAN: Plan = Plan {
    kind: "instance.purge",
    version: 1,
    verb: "purge",
    after_children: false,
    gives_way: GivesWay::Never,
    tries: plan::TRIES,
    steps: &[Step {
        name: "remove",
        title: "Remove the data",
        act: |context| Box::pin(purge(context)),
        undo: None,
        goal: Some(GoalKind::Gone),
        undo_goal: None,
        failpoints: &[],
    }],
    outcome: |_, _| Box::pin(std::future::ready(Ok(Outcome::Empty))),
    // Tried again later, and not at every look.
    abandon: |tx, claim, _| Box::pin(delay(tx, claim)),
};

/// For an instance whose host is gone: only the records are left to remove.
pub(crate) const ABANDON_PLAN: Plan = Plan {
    kind: "instance.abandon",
    version: 1,
    verb: "delete",
    after_children: false,
    gives_way: GivesWay::Never,
    tries: plan::TRIES,
    steps: &[Step {
        name: "forget",
        title: "Give up the server and its host",
        act: |context| Box::pin(steps::forget(context)),
        undo: None,
        goal: None,
        undo_goal: None,
        failpoints: &[],
    }],
    outcome: |_, _| Box::pin(std::future::ready(Ok(Outcome::Empty))),
    abandon: |_, _, _| Box::pin(std::future::ready(Ok(()))),
};

/// What a user has asked for is done when it can be done, and as it was asked for.
async fn delay(tx: &mut Tx, claim: &Claim) -> Result<()> {
    let parameters = serde_json::from_value(claim.parameters.clone());
    let requested = parameters.is_ok_and(|read: PurgeInstanceParameters| read.requested);
    tx.delay_purge(claim.target_uid, PURGE_PAUSE, requested)
        .await
}

async fn purge(context: &Context) -> Result<End> {
    let parameters: PurgeInstanceParameters = context.parameters()?;
    let disposal = match parameters.requested {
        true => Disposal::Delete,
        false => Disposal::Trash(context.engine.store.now().await?),
    };
    steps::remove(context, disposal).await
}
