//! Nothing escapes the crash table: no operation, no step, no provider, no point.

use std::{collections::BTreeSet, fs, path::Path};

use howdah::{
    app::operations::{PlanPoints, points},
    domain::provider::Failpoints,
    providers::FAILPOINTS,
};

use super::{
    rows::{Crash, Row, rows},
    scenario::{COVERED_OTHERWISE, SCENARIOS},
};

#[test]
fn every_kind_and_every_point_has_a_row() {
    for provider in FAILPOINTS {
        let plans = points(provider);
        let of_all: Vec<Row> = plans
            .iter()
            .flat_map(|plan| of_kind(provider, plan))
            .collect();
        let covered: BTreeSet<String> = of_all.iter().flat_map(Row::points).collect();
        only_its_points(provider, &covered);
        for scenario in SCENARIOS {
            let known = plans.iter().any(|plan| plan.kind == scenario.kind);
            assert!(known, "no operation is called {}", scenario.kind);
        }
    }
}

/// The rows of a kind, which has one for each point, or a reason for having none.
fn of_kind(provider: &'static Failpoints, plan: &PlanPoints) -> Vec<Row> {
    let (name, rows) = (provider.provider, rows(provider, plan));
    let scenarios = SCENARIOS.iter().filter(|row| row.kind == plan.kind);
    let scenarios: Vec<_> = scenarios.collect();
    assert!(!scenarios.is_empty(), "{} has no scenario", plan.kind);
    if scenarios.iter().all(|row| row.left_out(name).is_some()) {
        return rows;
    }
    for (back, point) in plan.all() {
        let is_there = |row: &Row| match &row.crash {
            Crash::Forward(at) => !back && at == point,
            Crash::Backward(at) => back && at.as_slice() == [point.to_owned()],
            _ => false,
        };
        let there = rows.iter().any(is_there);
        assert!(there, "{point} has no row with {name}, back: {back}");
    }
    rows
}

/// All points of the provider are covered, and none of another one.
fn only_its_points(provider: &Failpoints, covered: &BTreeSet<String>) {
    for point in provider.all {
        let known = covered.contains(*point) || COVERED_OTHERWISE.contains(point);
        assert!(known, "{point} belongs to no plan");
    }
    for point in covered {
        let mut owners = FAILPOINTS.iter().filter(|of| is_of(point, of));
        let own = owners.all(|owner| owner.all == provider.all);
        assert!(own, "{point} in a row with {}", provider.provider);
        let named = !is_of(point, provider) || provider.all.contains(&point.as_str());
        assert!(named, "{} does not name {point}", provider.provider);
    }
}

fn is_of(point: &str, provider: &Failpoints) -> bool {
    point.split('.').next() == Some(provider.provider)
}

/// The providers that have failpoints are those whose sources are there.
#[test]
fn every_provider_has_failpoints() {
    let entries = fs::read_dir(source("providers")).unwrap();
    let stem = |entry: fs::DirEntry| entry.path().file_stem().unwrap().to_owned();
    let mut sources: BTreeSet<_> = entries.map(|entry| stem(entry.unwrap())).collect();
    assert!(
        sources.remove("mod".as_ref() as &std::ffi::OsStr),
        "no source was read"
    );
    let named = FAILPOINTS.iter().map(|of| of.provider.into());
    assert_eq!(sources, named.collect());
}

/// A step and a provider name each point that they pass.
#[test]
fn every_point_in_the_sources_is_named() {
    let mut named: BTreeSet<String> = BTreeSet::new();
    for provider in FAILPOINTS {
        named.extend(provider.all.iter().map(ToString::to_string));
        named.extend(points(provider).into_iter().flat_map(|plan| plan.forward));
    }
    let mut seen = 0;
    for room in ["app/operations", "providers"] {
        for point in hits(&source(room)) {
            // Those of the embedded metadata server have tests of their own.
            let of_servers = room != "providers" || FAILPOINTS.iter().any(|of| is_of(&point, of));
            assert!(
                !of_servers || named.contains(&point),
                "nobody names {point}"
            );
            seen += usize::from(of_servers);
        }
    }
    assert!(seen > 0, "no point was seen");
}

fn source(room: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room)
}

/// The points that are hit by their name in the files below `directory`.
fn hits(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(hits(&path));
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        let after = text.split("failpoint::hit(\"").skip(1);
        found.extend(
            after
                .filter_map(|rest| rest.split('"').next())
                .map(str::to_owned),
        );
    }
    found
}
