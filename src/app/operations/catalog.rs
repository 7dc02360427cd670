//! Every kind of long operation there is.

use super::{
    create_database, create_instance, delete_database, delete_instance, plan::Plan, purge_instance,
    run_instance,
};

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

/// All of them.
pub(super) static ALL: [&Plan; 12] = [
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
];

/// The plan of a kind and version. The former version of a plan stays here for one
/// release: operations that are under way find their steps.
pub(super) fn find(kind: &str, version: i32) -> Option<&'static Plan> {
    among(&ALL, kind, version)
}

fn among(plans: &[&'static Plan], kind: &str, version: i32) -> Option<&'static Plan> {
    let mut plans = plans.iter().copied();
    plans.find(|plan| plan.kind == kind && plan.version == version)
}

/// The points of a plan at which a test can kill the process.
#[derive(Clone, Debug)]
pub struct PlanPoints {
    /// Kind of the operation.
    pub kind: &'static str,
    /// Points on the way forward: around each effect and commit, and within each effect.
    pub forward: Vec<String>,
    /// Points on the way back; empty when there is none.
    pub backward: Vec<String>,
    /// Whether it can be cancelled.
    pub cancellable: bool,
}

/// Every point of every plan, so that a crash test can leave none out.
#[must_use]
pub fn points() -> Vec<PlanPoints> {
    let of = |plan: &&Plan| {
        let at = |place: &str| -> Vec<String> {
            plan.steps
                .iter()
                .map(|step| format!("{}.{}.{place}", plan.kind, step.name))
                .collect()
        };
        let within = plan
            .steps
            .iter()
            .flat_map(|step| step.failpoints.iter().map(|p| (*p).into()));
        let mut forward = at("before_effect");
        forward.extend(at("before_commit"));
        forward.extend(at("after_commit"));
        forward.extend(within);
        let mut backward = Vec::new();
        if plan.cancellable() {
            backward.extend(at("before_undo_commit"));
            backward.extend(at("after_undo_commit"));
        }
        PlanPoints {
            kind: plan.kind,
            forward,
            backward,
            cancellable: plan.cancellable(),
        }
    };
    ALL.iter().map(of).collect()
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
