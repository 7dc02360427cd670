//! Every operation is crashed at every point, and ends as if nothing had happened.
//!
//! The table comes from the plans themselves: an operation that has no scenario fails
//! it, and so does a point that is never passed.

mod embedded;
pub mod picture;
pub mod scenario;
pub mod world;

use std::collections::{BTreeSet, HashMap, hash_map::Entry};

use howdah::{
    app::operations::{PlanPoints, points},
    pb::google::longrunning::Operation,
    providers::local::FAILPOINTS,
};

use self::{
    picture::{Picture, nothing_leaked},
    scenario::{Act, COVERED_OTHERWISE, SCENARIOS, Scenario},
    world::{World, request_id},
};
use super::{Numbers, deadline, seed};
use crate::support::howdah::instance_name;

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
    pub scenario: &'static Scenario,
    pub crash: Crash,
}

impl Row {
    fn name(&self) -> String {
        let Scenario { kind, variant, .. } = self.scenario;
        format!("{kind}{variant}: {:?}", self.crash)
    }
}

/// Points in the middle of the effects that take steps back.
const WITHIN_UNDO: &[(&str, &str)] = &[
    ("instance.create", "local.stop.after_spawn"),
    ("instance.create", "local.remove.after_rename"),
];

/// All rows for a kind of operation.
pub fn rows(plan: &PlanPoints) -> Vec<Row> {
    let scenarios = SCENARIOS.iter().filter(|row| row.kind == plan.kind);
    scenarios.flat_map(|row| rows_of(row, plan)).collect()
}

fn rows_of(scenario: &'static Scenario, plan: &PlanPoints) -> Vec<Row> {
    let passed = |point: &&String| !scenario.without.contains(&point.as_str());
    let mut forward: Vec<String> = plan.forward.iter().filter(passed).cloned().collect();
    forward.extend(scenario.more.iter().map(|point| (*point).to_owned()));
    let mut crashes: Vec<Crash> = forward.iter().cloned().map(Crash::Forward).collect();
    let again = forward
        .iter()
        .filter(|point| point.ends_with(".before_commit"));
    crashes.extend(again.cloned().map(Crash::Again));
    if plan.cancellable {
        let mut backward = plan.backward.clone();
        let within = WITHIN_UNDO.iter().filter(|(kind, _)| *kind == plan.kind);
        backward.extend(within.map(|(_, point)| (*point).to_owned()));
        crashes.extend(
            backward
                .iter()
                .map(|point| Crash::Backward(vec![point.clone()])),
        );
        crashes.push(Crash::Backward(Vec::new()));
        // Crashed twice: at the same point, and at every one of them.
        let twice = backward
            .iter()
            .find(|point| point.ends_with("before_undo_commit"));
        crashes.extend(twice.map(|point| Crash::Backward(vec![point.clone(), point.clone()])));
        let mut in_turn = plan.backward.clone();
        in_turn.sort_by_key(|point| {
            let step = plan.forward.iter().position(|at| same_step(at, point));
            (std::cmp::Reverse(step), point.contains("after"))
        });
        crashes.push(Crash::Backward(in_turn));
    }
    let row = |crash| Row { scenario, crash };
    crashes.into_iter().map(row).collect()
}

/// Whether both points belong to one step: they differ in the last word.
fn same_step(one: &str, other: &str) -> bool {
    one.rsplit_once('.').map(|both| both.0) == other.rsplit_once('.').map(|both| both.0)
}

/// The table, with how each scenario ends by itself.
#[derive(Default)]
pub struct Table {
    world: Option<World>,
    ends: HashMap<(usize, bool), Picture>,
}

impl Table {
    /// Runs a row; panics where it fails.
    pub async fn run(&mut self, row: &Row) {
        let mut world = match self.world.take() {
            Some(world) => world,
            None => World::new().await,
        };
        let back = matches!(row.crash, Crash::Backward(_));
        let place = std::ptr::from_ref(row.scenario).addr();
        if let Entry::Vacant(first) = self.ends.entry((place, back)) {
            let quiet = match back {
                true => Crash::Backward(Vec::new()),
                false => Crash::None,
            };
            let end = run(&mut world, row.scenario, &quiet).await;
            first.insert(end);
        }
        let end = run(&mut world, row.scenario, &row.crash).await;
        assert_eq!(self.ends[&(place, back)], end, "{}", row.name());
        // Only a world in which all went well is used again.
        self.world = Some(world);
    }
}

async fn run(world: &mut World, scenario: &Scenario, crash: &Crash) -> Picture {
    let mut subject = world.subject();
    for act in scenario.prepare {
        world.prepare(&mut subject, *act).await;
    }
    let target = match scenario.trigger {
        Act::CreateShop | Act::DeleteShop => {
            format!("{}/databases/shop", instance_name(&subject.id))
        }
        _ => instance_name(&subject.id),
    };
    let ask_again = request_id();
    let first = match crash {
        Crash::None => None,
        Crash::Forward(point) | Crash::Again(point) => Some(point.clone()),
        Crash::Backward(_) => Some(last_commit(scenario.kind)),
    };
    if let Some(point) = &first {
        world.howdah.stop().await;
        if point.starts_with("local.template.") {
            world.forget_templates();
        }
        world.howdah.start(&format!("{point}=return")).await;
    }
    if scenario.trigger == Act::KillServer {
        world.kill_server();
    } else {
        // The answer may have been lost with the process.
        let _ = world.ask(&subject, scenario.trigger, &ask_again).await;
    }
    if first.is_some() {
        world.died().await;
    }
    match crash {
        Crash::None => {}
        Crash::Forward(_) => world.howdah.start("").await,
        Crash::Again(point) => {
            world.howdah.spawn(&format!("{point}=return"));
            world.died().await;
            world.howdah.start("").await;
        }
        Crash::Backward(points) => {
            // As another replica would write it down.
            let cancel = "update operations set cancel_requested = true where end_time is null";
            assert_eq!(world.metadata.execute(cancel, &[]).await.unwrap(), 1);
            for point in points {
                world.howdah.spawn(&format!("{point}=return"));
                world.died().await;
            }
            world.howdah.start("").await;
        }
    }
    let operation: Operation = match scenario.trigger {
        Act::KillServer => world.find_operation(scenario.kind, &target).await,
        act => world.ask(&subject, act, &ask_again).await.unwrap(),
    };
    let operation = world.howdah.wait(&operation).await;
    let end = Picture::take(world, &subject, &operation).await;
    world.clean_up(&subject).await;
    nothing_leaked(world, None, false).await;
    end
}

/// The point at which all effects of a kind are there.
fn last_commit(kind: &str) -> String {
    let plans = points();
    let plan = plans.iter().find(|plan| plan.kind == kind).unwrap();
    let mut before = plan
        .forward
        .iter()
        .filter(|point| point.ends_with(".before_commit"));
    before.next_back().unwrap().clone()
}

#[test]
fn every_kind_and_every_point_has_a_row() {
    let mut covered: BTreeSet<&str> = COVERED_OTHERWISE.iter().copied().collect();
    let plans = points();
    for plan in &plans {
        let rows = rows(plan);
        assert!(!rows.is_empty(), "{} has no scenario", plan.kind);
        for point in plan.forward.iter().chain(&plan.backward) {
            let is_there = |row: &Row| match &row.crash {
                Crash::Forward(at) => at == point,
                Crash::Backward(at) => at.as_slice() == [point.clone()],
                _ => false,
            };
            assert!(rows.iter().any(is_there), "{point} has no row");
        }
        covered.extend(plan.forward.iter().map(String::as_str));
    }
    covered.extend(SCENARIOS.iter().flat_map(|row| row.more).copied());
    for scenario in SCENARIOS {
        let known = plans.iter().any(|plan| plan.kind == scenario.kind);
        assert!(known, "no operation is called {}", scenario.kind);
    }
    for point in FAILPOINTS {
        assert!(covered.contains(point), "{point} belongs to no plan");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn table() {
    let plans = points();
    let rows: Vec<Row> = plans.iter().flat_map(rows).collect();
    let only = std::env::var("HOWDAH_SOAK_ONLY").unwrap_or_default();
    let rows: Vec<Row> = rows
        .into_iter()
        .filter(|row| row.name().contains(&only))
        .collect();
    let end = deadline();
    let from = end.map_or(0, |_| Numbers(seed()).below(rows.len()));
    let (mut done, mut failed) = (0, Vec::new());
    let mut table = Table::default();
    for row in rows.iter().cycle().skip(from).take(rows.len()) {
        if end.is_some_and(|end| std::time::Instant::now() >= end) {
            break;
        }
        let begin = std::time::Instant::now();
        let name = row.name();
        let (mut lent, row) = (std::mem::take(&mut table), row.clone());
        let ran = tokio::spawn(async move {
            lent.run(&row).await;
            lent
        });
        match ran.await {
            Ok(back) => table = back,
            Err(_) => failed.push(name.clone()),
        }
        done += 1;
        eprintln!("{:>6.1?} {name}", begin.elapsed());
    }
    eprintln!(
        "crash table: {done} of {} rows, {} failed",
        rows.len(),
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:#?}");
}
