//! Panics of steps and of background tasks: counted, logged, and bounded.

use howdah::pb::v1::{Database, GetDatabaseRequest, OperationMetadata, database};
use prost::Message as _;
use tonic::Code::{Internal, NotFound};

use super::rig::{Metadata, counter, failure, refused};
use crate::support::howdah::{
    Howdah, Options, create_database, eventually, instance_name, succeeded,
};

async fn serve(failpoints: &str) -> Howdah {
    let mut howdah = Howdah::new(Options::external().await);
    howdah.start(failpoints).await;
    howdah
}

/// How many panics were logged: one line each.
fn panics(howdah: &Howdah) -> usize {
    let log = howdah.log();
    let told = log
        .lines()
        .filter(|line| line.contains("\"message\":\"panic\""));
    told.inspect(|line| assert!(line.contains("\"place\":\""), "{line}"))
        .count()
}

#[tokio::test]
async fn a_step_that_panics_is_given_up_and_taken_back() {
    let howdah = serve("database.create.database.before_commit=panic").await;
    howdah.instance("orders").await;
    let request = create_database("orders", "shop");
    let accepted = howdah.databases().await.create_database(request).await;
    let operation = howdah.wait(accepted.unwrap().get_ref()).await;
    assert_eq!(failure(&operation), (Internal, "INTERNAL".to_owned()));
    let request = GetDatabaseRequest {
        name: format!("{}/databases/shop", instance_name("orders")),
    };
    let gone = howdah.databases().await.get_database(request).await;
    refused(gone, NotFound, "DATABASE_NOT_FOUND");
    assert_eq!(panics(&howdah), 5);
    assert_eq!(counter(&howdah, "howdah_panics").await, 5);
    // The workers go on.
    howdah.instance("stock").await;
}

#[tokio::test]
async fn a_step_that_panics_for_a_while_is_done_in_the_end() {
    let howdah = serve("database.create.role.before_commit=3*panic->off").await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    assert_eq!(counter(&howdah, "howdah_panics").await, 3);
}

/// A step that ends its process again and again leaves it time to serve.
#[tokio::test]
async fn a_step_that_ends_its_process_rests() {
    let deadly = "database.create.role.before_effect=return";
    let mut howdah = serve(deadly).await;
    howdah.instance("orders").await;
    let request = create_database("orders", "shop");
    let accepted = howdah.databases().await.create_database(request).await;
    let operation = accepted.unwrap().into_inner();
    assert!(!howdah.ended().await.success());
    howdah.spawn(deadly);
    assert!(!howdah.ended().await.success());
    // As if there had been more of them.
    let metadata = Metadata::of(&howdah).await;
    assert_eq!(metadata.count("operations where deaths = 1").await, 1);
    metadata.execute("update operations set deaths = 8").await;
    howdah.start(deadly).await;
    let resting = howdah.operation(&operation.name).await;
    let resting = OperationMetadata::decode(resting.metadata.unwrap().value.as_slice()).unwrap();
    let message = resting.last_error;
    assert!(message.contains("have ended 9 times"), "{message}");
    howdah.instance("stock").await;
    howdah.stop().await;
    metadata
        .execute("update operations set run_time = now()")
        .await;
    howdah.start("").await;
    let done: Database = succeeded(&howdah.wait(&operation).await);
    assert_eq!(done.state(), database::State::Ready);
}

/// A step that ends its process is tried alone on its host. While it rests, others at the
/// same step go on.
#[tokio::test]
async fn a_step_that_ends_its_process_is_tried_alone() {
    let howdah = serve("").await;
    howdah.instance("orders").await;
    howdah.database("orders", "first").await;
    let metadata = Metadata::of(&howdah).await;
    // At the same step as a new database is first, on the same host.
    metadata
        .execute(
            "insert into operations (id, project, kind, plan_version, verb, target, target_uid,
                principal, parameters, state, deaths, death_time, run_time, token, required_host,
                cancellable)
             select gen_random_uuid(), project, kind, plan_version, verb, 'deadly',
                gen_random_uuid(), principal, parameters, 'RUNNING', 9, now(),
                now() + interval '5 minutes', 9, required_host, true
             from operations where kind = 'database.create'",
        )
        .await;
    // While it rests.
    howdah.database("orders", "second").await;
    let held = "update operations set worker = gen_random_uuid(),
        lease_until = now() + interval '5 minutes' where target = 'deadly'";
    metadata.execute(held).await;
    let request = create_database("orders", "third");
    let accepted = howdah.databases().await.create_database(request).await;
    let third = accepted.unwrap().into_inner();
    let due = "operations where target like '%third' and end_time is null and worker is null
        and failures = 0 and run_time < now() - interval '1 second'";
    eventually("it is left out", async || metadata.count(due).await == 1).await;
    // It is not tried beside others either.
    let beside = "operations_in_turn o join operations d using (id) where d.target = 'deadly'";
    metadata
        .execute("update operations set lease_until = null, worker = null where target = 'deadly'")
        .await;
    let _: Database = succeeded(&howdah.wait(&third).await);
    assert_eq!(metadata.count(beside).await, 1);
    metadata
        .execute(
            "insert into operations (id, project, kind, plan_version, verb, target, target_uid,
                principal, parameters, state, lease_until, worker, required_host, cancellable)
             select gen_random_uuid(), project, kind, plan_version, verb, 'beside',
                gen_random_uuid(), principal, parameters, 'RUNNING', now() + interval '5 minutes',
                gen_random_uuid(), required_host, true
             from operations where target = 'deadly'",
        )
        .await;
    assert_eq!(metadata.count(beside).await, 0);
    // On another host the same is nothing to this one.
    metadata
        .execute("delete from operations where target = 'beside'")
        .await;
    metadata
        .execute("insert into hosts (id, name) values (gen_random_uuid(), 'elsewhere')")
        .await;
    metadata
        .execute(
            "update operations set worker = gen_random_uuid(),
                lease_until = now() + interval '5 minutes',
                required_host = (select id from hosts where name = 'elsewhere')
             where target = 'deadly'",
        )
        .await;
    howdah.database("orders", "fourth").await;
}

#[tokio::test]
async fn background_tasks_that_panic_are_started_again() {
    let tasks = [
        "dispatch",
        "listen",
        "supervision",
        "life",
        "housekeeping",
        "engines",
        "keys",
        "subscriptions",
    ];
    let points = tasks.map(|task| format!("task.{task}=2*panic->off"));
    let howdah = serve(&points.join(";")).await;
    eventually("all were started again", || async {
        counter(&howdah, "howdah_task_restarts").await == 16
    })
    .await;
    howdah.instance("orders").await;
    assert_eq!(counter(&howdah, "howdah_task_restarts").await, 16);
    assert_eq!(counter(&howdah, "howdah_panics").await, 16);
    assert_eq!(panics(&howdah), 16);
    let log = howdah.log();
    for task in tasks {
        let told = log.lines().filter(|line| {
            line.contains("a background task is started again")
                && line.contains(&format!("\"task.{task}\""))
        });
        assert_eq!(told.count(), 2, "{task}");
    }
}
