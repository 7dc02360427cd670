//! A few rows of the crash table, for every run of the tests: before and after each
//! commit, and around each wait. The whole table is `soak::crash`.

use howdah::{
    app::operations::points,
    providers::{FAILPOINTS, local, simulated},
};

use crate::{
    soak::crash::{
        Table,
        rows::{Crash, rows},
    },
    support::howdah::{Howdah, Options, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn creating_an_instance_is_crashed() {
    crash(local::NAME, "instance.create", "(ephemeral)", "_commit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_a_database_is_crashed() {
    crash(local::NAME, "database.create", "", "_commit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_are_crashed() {
    crash(simulated::NAME, "instance.create", "", "_wait").await;
    crash(simulated::NAME, "instance.remove", "", "_wait").await;
}

async fn crash(provider: &str, kind: &str, variant: &str, place: &str) {
    let mut providers = FAILPOINTS.iter();
    let provider = providers.find(|of| of.provider == provider).unwrap();
    let plans = points(provider);
    let plan = plans.iter().find(|plan| plan.kind == kind).unwrap();
    let around = |crash: &Crash| match crash {
        Crash::Forward(point) => point.ends_with(place),
        _ => false,
    };
    let mut table = Table::default();
    let mut done = 0;
    for row in rows(provider, plan) {
        if around(&row.crash) && row.scenario.variant.contains(variant) {
            table.run(&row).await;
            done += 1;
        }
    }
    let steps = plan.forward.iter();
    let steps = steps.filter(|at| at.ends_with("after_commit")).count();
    assert_eq!(done, 2 * steps);
}

/// The trash is emptied by the housekeeping, outside of any operation.
#[tokio::test(flavor = "multi_thread")]
async fn emptying_the_trash_is_crashed() {
    // What is due is deleted at once.
    let options = Options::external().await;
    let mut howdah = Howdah::new(options.with("HOWDAH_LOCAL_TRASH_RETENTION", "0s"));
    let due = howdah
        .data_dir()
        .join("local/trash/6f1c8b86-6f56-4b0c-a1a4-2f2d3a3f0a11.1000");
    std::fs::create_dir_all(due.join("data")).unwrap();
    howdah.spawn("local.trash.before_delete=return");
    assert!(!howdah.ended().await.success());
    assert_eq!(howdah.local("trash").len(), 1);
    howdah.start("").await;
    eventually("the trash is empty", async || {
        howdah.local("trash").is_empty()
    })
    .await;
}
