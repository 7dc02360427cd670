//! Deletes an instance: stops its server and keeps the data until the purge.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    context::Context,
    instance_steps as steps,
    plan::{self, Commit, Plan, Step, commit},
};
use crate::domain::Result;

/// How long the server may take to stop in order: its data is kept.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the operation is accepted with.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct DeleteInstanceParameters {
    /// For how long the data is kept, in seconds.
    pub(crate) keep_seconds: f64,
}

pub(crate) const PLAN: Plan = Plan {
    kind: "instance.delete",
    version: 1,
    verb: "delete",
    after_children: true,
    tries: plan::TRIES,
    steps: &[Step {
        name: "stop",
        title: "Stop the server",
        act: |context| Box::pin(stop_and_mark(context)),
        undo: None,
        failpoints: &["local.stop.after_spawn"],
    }],
    outcome: |tx, uid| Box::pin(steps::instance(tx, uid)),
    abandon: |tx, claim, why| Box::pin(steps::mark_failed(tx, claim, why)),
};

async fn stop_and_mark(context: &Context) -> Result<Commit> {
    let parameters: DeleteInstanceParameters = context.parameters()?;
    let server = context.server().await?;
    let provider = context.app.provider();
    provider.stop_at_any_cost(&server, PATIENCE).await?;
    let uid = context.claim.target_uid;
    Ok(commit(move |tx| {
        Box::pin(tx.mark_instance_deleted(uid, parameters.keep_seconds))
    }))
}
