//! Removes an instance for ever, with its data and records. If a user asked for it the data is
//! deleted at once; when the retention has passed the data goes to the trash.

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

/// Seconds before a failed purge is tried again.
const PURGE_PAUSE: f64 = 3600.0;

/// Parameters of `instance.purge`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct PurgeInstanceParameters {
    /// Whether a user asked for the purge.
    pub(crate) requested: bool,
}

/// For an instance that is not deleted yet: DeleteInstance with `purge`.
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

/// Marks an instance DELETED after its removal has failed. Its server may still run, or its data
/// may be removed in part. The purge is tried again later.
async fn keep_purging(tx: &mut Tx, claim: &Claim) -> Result<()> {
    let uid = claim.target_uid;
    tx.mark_instance_deleted(uid, PURGE_PAUSE).await?;
    tx.delay_purge(uid, PURGE_PAUSE, true).await
}

/// For a deleted instance, when its retention has passed or a user asks for the purge.
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
    // Without the delay, housekeeping would start another purge in its next round.
    abandon: |tx, claim, _| Box::pin(delay(tx, claim)),
};

/// For an instance whose host is gone: only its records can be removed.
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

/// Plans the next purge. It keeps whether a user asked, because that decides if the data is
/// deleted at once.
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
