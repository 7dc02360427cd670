//! The plans of all kinds of operations.

use super::{
    create_change_stream, create_database, create_instance, delete_change_stream, delete_database,
    delete_instance,
    plan::{Plan, Step},
    purge_instance, run_instance,
};
use crate::domain::provider::{Failpoints, Passed};

pub(crate) static CREATE_INSTANCE: Plan = create_instance::PLAN;
pub(crate) static START_INSTANCE: Plan = run_instance::START_PLAN;
pub(crate) static STOP_INSTANCE: Plan = run_instance::STOP_PLAN;
pub(crate) static RESTART_INSTANCE: Plan = run_instance::RESTART_PLAN;
pub(crate) static RECOVER_INSTANCE: Plan = run_instance::RECOVER_PLAN;
pub(crate) static DELETE_INSTANCE: Plan = delete_instance::PLAN;
pub(crate) static UNDELETE_INSTANCE: Plan = run_instance::UNDELETE_PLAN;
pub(crate) static REMOVE_INSTANCE: Plan = purge_instance::REMOVE_PLAN;
pub(crate) static PURGE_INSTANCE: Plan = purge_instance::PURGE_PLAN;
pub(crate) static ABANDON_INSTANCE: Plan = purge_instance::ABANDON_PLAN;
pub(crate) static CREATE_DATABASE: Plan = create_database::PLAN;
pub(crate) static DELETE_DATABASE: Plan = delete_database::PLAN;
pub(crate) static CREATE_CHANGE_STREAM: Plan = create_change_stream::PLAN;
pub(crate) static DELETE_CHANGE_STREAM: Plan = delete_change_stream::PLAN;

/// All plans that this release can execute.
pub(super) static ALL: [&Plan; 14] = [
    &CREATE_INSTANCE,
    &START_INSTANCE,
    &STOP_INSTANCE,
    &RESTART_INSTANCE,
    &RECOVER_INSTANCE,
    &DELETE_INSTANCE,
    &UNDELETE_INSTANCE,
    &REMOVE_INSTANCE,
    &PURGE_INSTANCE,
    &ABANDON_INSTANCE,
    &CREATE_DATABASE,
    &DELETE_DATABASE,
    &CREATE_CHANGE_STREAM,
    &DELETE_CHANGE_STREAM,
];

/// Finds the plan of a kind and version. When a plan changes, its former version must stay here
/// for one release, so that operations accepted by the former release can finish.
pub(super) fn find(kind: &str, version: i32) -> Option<&'static Plan> {
    among(&ALL, kind, version)
}

fn among(plans: &[&'static Plan], kind: &str, version: i32) -> Option<&'static Plan> {
    let mut plans = plans.iter().copied();
    plans.find(|plan| plan.kind == kind && plan.version == version)
}

/// The failpoints of a plan, at which a test can kill the process.
#[derive(Clone, Debug)]
pub struct PlanPoints {
    /// Kind of the operation.
    pub kind: &'static str,
    /// Failpoints on the way forward: in the effects, and around each effect, wait and commit.
    pub forward: Vec<String>,
    /// Failpoints while steps are undone; empty if the plan cannot be undone.
    pub backward: Vec<String>,
    /// Whether the operation can be cancelled.
    pub cancellable: bool,
}

impl PlanPoints {
    /// All failpoints, each with whether it belongs to the undo.
    pub fn all(&self) -> impl Iterator<Item = (bool, &String)> {
        let forward = self.forward.iter().map(|point| (false, point));
        forward.chain(self.backward.iter().map(|point| (true, point)))
    }
}

/// The failpoints of all plans with the servers of one provider. The crash tests use this list,
/// so a new plan cannot be left out.
#[must_use]
pub fn points(provider: &Failpoints) -> Vec<PlanPoints> {
    ALL.iter().map(|plan| points_of(plan, provider)).collect()
}

fn points_of(plan: &Plan, provider: &Failpoints) -> PlanPoints {
    let towards = provider.towards;
    let (mut forward, mut backward) = (Points::of(plan), Points::of(plan));
    for step in plan.steps {
        forward.around(step, &["before_effect", "before_commit", "after_commit"]);
        forward.add(step.failpoints);
        forward.pursue(step, step.goal.map(towards));
    }
    if plan.cancellable() {
        for step in plan.steps {
            backward.around(step, &["before_undo_commit", "after_undo_commit"]);
            backward.pursue(step, step.undo_goal.map(towards));
        }
    }
    PlanPoints {
        kind: plan.kind,
        forward: forward.points,
        backward: backward.points,
        cancellable: plan.cancellable(),
    }
}

/// Collects the failpoints of a plan without duplicates. Two steps may pass the same failpoint
/// of a provider.
struct Points {
    kind: &'static str,
    points: Vec<String>,
}

impl Points {
    const fn of(plan: &Plan) -> Self {
        Self {
            kind: plan.kind,
            points: Vec::new(),
        }
    }

    fn add(&mut self, points: &[&str]) {
        for point in points {
            if !self.points.iter().any(|known| known == point) {
                self.points.push((*point).to_owned());
            }
        }
    }

    /// Adds the engine's failpoints at these moments of a step.
    fn around(&mut self, step: &Step, places: &[&str]) {
        for place in places {
            self.add(&[&format!("{}.{}.{place}", self.kind, step.name)]);
        }
    }

    /// Adds the failpoints that a provider passes on the way to the step's goal.
    fn pursue(&mut self, step: &Step, passed: Option<Passed>) {
        let Some(passed) = passed else { return };
        if passed.waits {
            self.around(step, &["before_wait", "after_wait"]);
        }
        self.add(passed.points);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NEXT: Plan = Plan {
        version: CREATE_INSTANCE.version + 1,
        steps: &[],
        ..create_instance::PLAN
    };

    #[test]
    fn an_operation_finds_the_steps_that_it_was_accepted_with() {
        let plans = [&CREATE_INSTANCE, &NEXT];
        let steps =
            |version| among(&plans, "instance.create", version).map(|plan| plan.steps.len());
        assert_eq!(
            steps(CREATE_INSTANCE.version),
            Some(CREATE_INSTANCE.steps.len())
        );
        assert_eq!(steps(NEXT.version), Some(0));
        assert_eq!(steps(NEXT.version + 1), None);
    }

    #[test]
    fn no_plan_is_there_twice() {
        let keys: std::collections::BTreeSet<String> = ALL.iter().map(|plan| plan.key()).collect();
        assert_eq!(keys.len(), ALL.len());
    }
}
