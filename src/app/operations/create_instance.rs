//! Creates an instance with its first server.

use super::{
    instance_steps as steps,
    plan::{self, Plan, Step},
};
use crate::domain::{operation::GivesWay, provider::GoalKind};

pub(crate) const PLAN: Plan = Plan {
    kind: "instance.create",
    version: 1,
    verb: "create",
    after_children: false,
    gives_way: GivesWay::Never,
    tries: plan::TRIES,
    steps: &[Step {
        name: "start",
        title: "Make and start the server",
        act: |context| Box::pin(steps::run_first(context)),
        undo: Some(|context| Box::pin(steps::discard(context))),
        goal: Some(GoalKind::Made),
        undo_goal: Some(GoalKind::Discarded),
        failpoints: &[],
    }],
    outcome: |tx, uid| Box::pin(steps::instance(tx, uid)),
    // The undo has removed everything, so the id can be used again.
    abandon: |tx, claim, _| Box::pin(tx.remove_instance(claim.target_uid)),
};
