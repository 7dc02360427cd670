//! Deletes an instance: stops its servers, and keeps their data until the purge.

use serde::{Deserialize, Serialize};

use super::{
    instance_steps as steps,
    plan::{self, Plan, Step},
};
use crate::domain::{operation::GivesWay, provider::GoalKind};

/// Parameters of the operation.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct DeleteInstanceParameters {
    /// How long the data is kept, in seconds.
    pub(crate) keep_seconds: f64,
}

pub(crate) const PLAN: Plan = Plan {
    kind: "instance.delete",
    version: 1,
    verb: "delete",
    after_children: true,
    gives_way: GivesWay::Never,
    tries: plan::TRIES,
    steps: &[Step {
        name: "stop",
        title: "Stop the server",
        act: |context| Box::pin(steps::stop_and_keep(context)),
        undo: None,
        goal: Some(GoalKind::Stopped),
        undo_goal: None,
        failpoints: &[],
    }],
    outcome: |tx, uid| Box::pin(steps::instance(tx, uid)),
    abandon: |tx, claim, why| Box::pin(steps::mark_not_stopped(tx, claim, why)),
};
