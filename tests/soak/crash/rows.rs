//! The rows of the crash table: where the process is killed, in which scenario.

use howdah::{
    app::operations::{PlanPoints, points},
    domain::provider::Failpoints,
    providers::{FAILPOINTS, local, simulated},
};

use super::scenario::{SCENARIOS, Scenario};

/// Where a row kills the process.
#[derive(Clone, Debug)]
pub enum Crash {
    /// Nowhere: how the operation ends by itself.
    None,
    /// Once, on the way forward.
    Forward(String),
    /// There, and there again when the next process goes on with it.
    Again(String),
    /// On the way back, at each of the points in turn; the operation was cancelled
    /// when all its effects were there.
    Backward(Vec<String>),
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub provider: &'static Failpoints,
    pub scenario: &'static Scenario,
    pub crash: Crash,
}

impl Row {
    /// Such as `instance.create (simulated): Forward("...")`. Servers are local where
    /// nothing else is said.
    pub fn name(&self) -> String {
        let Scenario { kind, variant, .. } = self.scenario;
        match self.provider.provider {
            local::NAME => format!("{kind}{variant}: {:?}", self.crash),
            // A variant is one of local servers.
            other => format!("{kind} ({other}): {:?}", self.crash),
        }
    }

    /// The points at which it kills the process.
    pub fn points(&self) -> Vec<String> {
        match &self.crash {
            Crash::None => Vec::new(),
            Crash::Forward(point) | Crash::Again(point) => vec![point.clone()],
            Crash::Backward(points) => points.clone(),
        }
    }
}

/// All rows, those of the providers mixed: a part of them has some of each.
pub fn all() -> Vec<Row> {
    let mut placed = Vec::new();
    for provider in FAILPOINTS {
        let plans = points(provider);
        let of_one: Vec<Row> = plans.iter().flat_map(|plan| rows(provider, plan)).collect();
        let all = of_one.len();
        let place = |(at, row)| (at as f64 / all as f64, row);
        placed.extend(of_one.into_iter().enumerate().map(place));
    }
    placed.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    placed.into_iter().map(|(_, row)| row).collect()
}

/// All rows for a kind of operation on servers of a provider.
pub fn rows(provider: &'static Failpoints, plan: &PlanPoints) -> Vec<Row> {
    let scenarios = SCENARIOS.iter().filter(|scenario| {
        scenario.kind == plan.kind && scenario.left_out(provider.provider).is_none()
    });
    let crashes = |scenario: &'static Scenario| {
        let forward = forward(scenario, plan).into_iter();
        let all = forward.chain(backward(plan));
        all.map(move |crash| Row {
            provider,
            scenario,
            crash,
        })
    };
    scenarios.flat_map(crashes).collect()
}

fn forward(scenario: &Scenario, plan: &PlanPoints) -> Vec<Crash> {
    let passed = |point: &&String| !scenario.without.contains(&point.as_str());
    let mut points: Vec<String> = plan.forward.iter().filter(passed).cloned().collect();
    points.extend(scenario.more.iter().map(|point| (*point).to_owned()));
    // The simulated provider passes its point at each effect: at the next one this time.
    let again = |point: &&String| {
        point.ends_with(".before_commit") || simulated::FAILPOINTS.contains(&point.as_str())
    };
    let again = points.iter().filter(again).cloned().map(Crash::Again);
    let again: Vec<Crash> = again.collect();
    let once = points.into_iter().map(Crash::Forward);
    once.chain(again).collect()
}

fn backward(plan: &PlanPoints) -> Vec<Crash> {
    if !plan.cancellable {
        return Vec::new();
    }
    let once = |point: &String| Crash::Backward(vec![point.clone()]);
    let mut crashes: Vec<Crash> = plan.backward.iter().map(once).collect();
    crashes.push(Crash::Backward(Vec::new()));
    // Crashed twice: at the same point, and around every commit.
    let mut points = plan.backward.iter();
    let twice = points.find(|point| point.ends_with(".before_undo_commit"));
    crashes.extend(twice.map(|point| Crash::Backward(vec![point.clone(), point.clone()])));
    let commits = plan.backward.iter();
    let commits = commits.filter(|point| point.ends_with("_undo_commit"));
    let mut in_turn: Vec<String> = commits.cloned().collect();
    in_turn.sort_by_key(|point| {
        let step = plan.forward.iter().position(|at| same_step(at, point));
        (std::cmp::Reverse(step), point.contains("after"))
    });
    crashes.push(Crash::Backward(in_turn));
    crashes
}

/// Whether both points belong to one step: they differ in the last word.
fn same_step(one: &str, other: &str) -> bool {
    one.rsplit_once('.').map(|both| both.0) == other.rsplit_once('.').map(|both| both.0)
}
