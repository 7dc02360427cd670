//! Lets an instance go for good: its data to the trash, its records away.

use super::{
    instance_steps as steps,
    plan::{self, Plan, Step},
};
use crate::domain::operation::Outcome;

/// Seconds until a purge is tried again that has failed.
const PURGE_PAUSE: f64 = 3600.0;

const REMOVE: Step = Step {
    name: "remove",
    title: "Move the data to the trash",
    act: |context| Box::pin(steps::remove(context)),
    undo: None,
    failpoints: &["local.remove.after_rename"],
};

/// For an instance that is not deleted yet: `DeleteInstance` with `purge`.
pub(crate) const REMOVE_PLAN: Plan = Plan {
    kind: "instance.remove",
    version: 1,
    verb: "delete",
    after_children: true,
    tries: plan::TRIES,
    steps: &[
        Step {
            name: "stop",
            title: "Stop the server",
            act: |context| Box::pin(steps::stop_at_any_cost(context)),
            undo: None,
            failpoints: &["local.stop.after_spawn"],
        },
        REMOVE,
    ],
    outcome: |_, _| Box::pin(std::future::ready(Ok(Outcome::Empty))),
    abandon: |tx, claim, why| Box::pin(steps::mark_failed(tx, claim, why)),
};

/// For a deleted instance whose time has come.
pub(crate) const PURGE_PLAN: Plan = Plan {
    kind: "instance.purge",
    version: 1,
    verb: "purge",
    after_children: false,
    tries: plan::TRIES,
    steps: &[REMOVE],
    outcome: |_, _| Box::pin(std::future::ready(Ok(Outcome::Empty))),
    // Tried again later, and not at every look.
    abandon: |tx, claim, _| Box::pin(tx.delay_purge(claim.target_uid, PURGE_PAUSE)),
};

/// For an instance whose host is gone: only the records are left to remove.
pub(crate) const ABANDON_PLAN: Plan = Plan {
    kind: "instance.abandon",
    version: 1,
    verb: "delete",
    after_children: false,
    tries: plan::TRIES,
    steps: &[Step {
        name: "forget",
        title: "Give up the server and its host",
        act: |context| Box::pin(steps::forget(context)),
        undo: None,
        failpoints: &[],
    }],
    outcome: |_, _| Box::pin(std::future::ready(Ok(Outcome::Empty))),
    abandon: |_, _, _| Box::pin(std::future::ready(Ok(()))),
};
