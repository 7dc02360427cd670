//! Lets an instance go for good: its data to the trash, its records away.

use super::{
    instance_steps as steps,
    plan::{Plan, Step},
};
use crate::domain::operation::Outcome;

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
    steps: &[
        Step {
            name: "stop",
            title: "Stop the server",
            act: |context| Box::pin(steps::stop(context)),
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
    steps: &[REMOVE],
    outcome: |_, _| Box::pin(std::future::ready(Ok(Outcome::Empty))),
    abandon: |_, _, _| Box::pin(std::future::ready(Ok(()))),
};

/// For an instance whose host is gone: only the records are left to remove.
pub(crate) const ABANDON_PLAN: Plan = Plan {
    kind: "instance.abandon",
    version: 1,
    verb: "delete",
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
