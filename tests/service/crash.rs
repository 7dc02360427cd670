//! A few rows of the crash table, for every run of the tests: before and after each
//! commit. The whole table is `soak::crash`.

use howdah::app::operations::points;

use crate::soak::crash::{Crash, Table, rows};

#[tokio::test(flavor = "multi_thread")]
async fn creating_an_instance_is_crashed() {
    crash("instance.create", "(ephemeral)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_a_database_is_crashed() {
    crash("database.create", "").await;
}

async fn crash(kind: &str, variant: &str) {
    let plans = points();
    let plan = plans.iter().find(|plan| plan.kind == kind).unwrap();
    let around = |crash: &Crash| match crash {
        Crash::Forward(point) => point.ends_with("_commit"),
        _ => false,
    };
    let mut table = Table::default();
    let mut done = 0;
    for row in rows(plan) {
        if around(&row.crash) && row.scenario.variant.contains(variant) {
            table.run(&row).await;
            done += 1;
        }
    }
    assert_eq!(
        done,
        2 * plan
            .forward
            .iter()
            .filter(|at| at.ends_with("after_commit"))
            .count()
    );
}
