//! Creates an instance: a data directory, then a running server.

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
    steps: &[
        Step {
            name: "initialize",
            title: "Initialize the data directory",
            act: |context| Box::pin(steps::initialize(context)),
            undo: Some(|context| Box::pin(steps::discard(context))),
            failpoints: &[
                "local.initialize.spawned",
                "local.initialize.after_initdb",
                "local.initialize.after_rename",
            ],
        },
        Step {
            name: "start",
            title: "Start the server",
            act: |context| Box::pin(steps::start_first(context)),
            undo: Some(|context| Box::pin(steps::stop(context))),
            failpoints: steps::START_POINTS,
        },
    ],
    outcome: |tx, uid| Box::pin(steps::instance(tx, uid)),
    // Everything was taken back: the id is free again.
    abandon: |tx, claim, _| Box::pin(tx.remove_instance(claim.target_uid)),
};
