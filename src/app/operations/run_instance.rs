//! Starts, stops and restarts the servers of an instance, and recovers single servers.

use super::{
    instance_steps as steps,
    plan::{self, Plan, Step},
};
use crate::domain::{operation::GivesWay, provider::GoalKind};

const START: Step = Step {
    name: "start",
    title: "Start the server",
    act: |context| Box::pin(steps::run(context)),
    undo: None,
    goal: Some(GoalKind::Running),
    undo_goal: None,
    failpoints: &[],
};

const STOP: Step = Step {
    name: "stop",
    title: "Stop the server",
    act: |context| Box::pin(steps::stop(context)),
    undo: None,
    goal: Some(GoalKind::Stopped),
    undo_goal: None,
    failpoints: &[],
};

pub(crate) const START_PLAN: Plan = Plan {
    kind: "instance.start",
    version: 1,
    verb: "start",
    after_children: false,
    gives_way: GivesWay::Waiting,
    tries: plan::TRIES,
    steps: &[START],
    outcome: |tx, uid| Box::pin(steps::instance(tx, uid)),
    abandon: |tx, claim, why| Box::pin(steps::mark_not_started(tx, claim, why)),
};

pub(crate) const STOP_PLAN: Plan = Plan {
    kind: "instance.stop",
    version: 1,
    verb: "stop",
    after_children: true,
    gives_way: GivesWay::Never,
    tries: plan::TRIES,
    steps: &[Step {
        act: |context| Box::pin(steps::stop_and_stay(context)),
        ..STOP
    }],
    outcome: |tx, uid| Box::pin(steps::instance(tx, uid)),
    abandon: |tx, claim, why| Box::pin(steps::mark_not_stopped(tx, claim, why)),
};

pub(crate) const RESTART_PLAN: Plan = Plan {
    kind: "instance.restart",
    version: 1,
    verb: "restart",
    after_children: true,
    gives_way: GivesWay::Waiting,
    tries: plan::TRIES,
    steps: &[STOP, START],
    outcome: |tx, uid| Box::pin(steps::instance(tx, uid)),
    abandon: |tx, claim, why| Box::pin(steps::mark_not_restarted(tx, claim, why)),
};

/// The supervisor enqueues this when a server has ended by itself. For the active server the
/// target is the instance. For another server the target is that server, as a child of the
/// instance, so its recovery and the operations on the instance do not exclude each other.
pub(crate) const RECOVER_PLAN: Plan = Plan {
    kind: "instance.recover",
    version: 1,
    verb: "recover",
    after_children: false,
    gives_way: GivesWay::Always,
    // The supervisor enqueues another recovery later, with growing pauses.
    tries: 3,
    steps: &[Step {
        name: "start",
        title: "Start the server again",
        act: |context| Box::pin(steps::recover(context)),
        undo: None,
        goal: Some(GoalKind::Running),
        undo_goal: None,
        failpoints: &[],
    }],
    outcome: |tx, uid| Box::pin(steps::instance_of(tx, uid)),
    abandon: |tx, claim, why| Box::pin(steps::mark_not_recovered(tx, claim, why)),
};

pub(crate) const UNDELETE_PLAN: Plan = Plan {
    kind: "instance.undelete",
    version: 1,
    verb: "undelete",
    after_children: false,
    gives_way: GivesWay::Waiting,
    tries: plan::TRIES,
    steps: &[START],
    outcome: |tx, uid| Box::pin(steps::instance(tx, uid)),
    abandon: |tx, claim, why| Box::pin(steps::mark_not_started(tx, claim, why)),
};
