//! Creates an instance with its server.

use super::{
    instance_steps as steps,
    plan::{self, Plan, Step},
};

pub(crate) const PLAN: Plan = Plan {
    kind: "instance.create",
    version: 1,
    verb: "create",
    after_children: false,
    tries: plan::TRIES,
    steps: &[Step {
        name: "start",
        title: "Make and start the server",
        act: |context| Box::pin(steps::run_first(context)),
        undo: Some(|context| Box::pin(steps::discard(context))),
        failpoints: &[
            "local.initialize.spawned",
            "local.initialize.after_initdb",
            "local.initialize.after_rename",
            "instance.create.start.before_wait",
            "instance.create.start.after_wait",
            "local.configure.before_rename",
            "local.configure.after_rename",
            "local.start.after_spawn",
            "local.start.after_start",
        ],
    }],
    outcome: |tx, uid| Box::pin(steps::instance(tx, uid)),
    // Everything was taken back: the id is free again.
    abandon: |tx, claim, _| Box::pin(tx.remove_instance(claim.target_uid)),
};
