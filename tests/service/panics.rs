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
