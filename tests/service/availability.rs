//! Whether a server is available, and whether it is meant to run, while servers fail and
//! die as the simulated world says.

use howdah::pb::{
    google::longrunning::{CancelOperationRequest, Operation},
    v1::{
        DeleteDatabaseRequest, DeleteInstanceRequest, GetInstanceRequest, Instance,
        RestartInstanceRequest, StartInstanceRequest, StopInstanceRequest, UndeleteInstanceRequest,
        condition, instance::State,
    },
};
use serde_json::json;
use tonic::Code;

use super::{
    rig::{Metadata, failure, refused},
    simulated::World,
};
use crate::{
    soak::crash::world::is_success,
    support::howdah::{Howdah, create_database, eventually, instance_name},
};

async fn instance(howdah: &Howdah) -> Instance {
    let request = GetInstanceRequest {
        name: instance_name("orders"),
    };
    let found = howdah.instances().await.get_instance(request).await;
    found.unwrap().into_inner()
}

fn is_available(instance: &Instance) -> bool {
    let mut conditions = instance.conditions.iter();
    let available = conditions.find(|condition| condition.r#type == "Available");
    available.unwrap().status() == condition::Status::True
}

/// Waits until the instance is READY, and says that its server is available.
async fn is_well(howdah: &Howdah) {
    eventually("the instance is well", async || {
        let now = instance(howdah).await;
        now.state() == State::Ready && !now.reconciling && is_available(&now)
    })
    .await;
}

/// Waits until the server is down and a pause passes.
async fn pauses(howdah: &Howdah) {
    eventually("the server is started after a pause", async || {
        let now = instance(howdah).await;
        now.state() == State::Ready && !now.reconciling && !is_available(&now)
    })
    .await;
}

macro_rules! accept {
    ($howdah:expr, $method:ident, $request:ident) => {{
        let request = $request {
            name: instance_name("orders"),
            ..$request::default()
        };
        let accepted = $howdah.instances().await.$method(request).await;
        accepted.unwrap().into_inner()
    }};
}

/// Has the tries of the operation that is under way come to their end.
async fn exhaust(metadata: &Metadata) {
    eventually("a try has failed", async || {
        let failed = "operations where failures > 0 and end_time is null";
        metadata.count(failed).await == 1
    })
    .await;
    let last = "update operations set failures = 14, run_time = now() where end_time is null";
    metadata.execute(last).await;
}

async fn ends_with(howdah: &Howdah, operation: &Operation, reason: &str) {
    assert_eq!(failure(&howdah.wait(operation).await).1, reason);
}

/// A server that may be up, or may still come up, is not given up with the operation.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_is_pursued_where_the_server_may_be_up() {
    let world = World::new(&[]);
    world.is(&json!({}));
    let howdah = Howdah::serve(world.options().await).await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;

    // One that does not stop runs on, or ends later.
    world.is(&json!({ "broken": true }));
    let restart = accept!(howdah, restart_instance, RestartInstanceRequest);
    ends_with(&howdah, &restart, "SERVER_START_FAILED").await;
    is_well(&howdah).await;
    // No process has ended.
    let conditions = instance(&howdah).await.conditions;
    let restarted = conditions
        .iter()
        .any(|told| told.r#type == "ServerRestarted");
    assert!(!restarted, "{conditions:?}");

    world.is(&json!({}));
    let stop = accept!(howdah, stop_instance, StopInstanceRequest);
    assert!(is_success(&howdah.wait(&stop).await));
    world.is(&json!({ "broken": true }));
    let start = accept!(howdah, start_instance, StartInstanceRequest);
    ends_with(&howdah, &start, "SERVER_START_FAILED").await;
    let given_up = "instances i join servers s on s.instance_uid = i.uid
        where i.state = 'FAILED' and s.wanted = 'STOPPED'";
    assert_eq!(metadata.count(given_up).await, 1);

    world.is(&json!({ "failures": 1_000_000 }));
    let start = accept!(howdah, start_instance, StartInstanceRequest);
    exhaust(&metadata).await;
    ends_with(&howdah, &start, "SERVER_UNAVAILABLE").await;
    assert!(!is_available(&instance(&howdah).await));
    world.is(&json!({}));
    is_well(&howdah).await;
}

/// READY does not mean that the server is up: it may wait for its next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_waits_for_its_start_is_started_at_once_by_request() {
    let world = World::new(&[]);
    world.is(&json!({}));
    let howdah = Howdah::serve(world.options().await).await;
    howdah.instance("orders").await;
    world.kill();
    eventually("it is recovered", async || world.runs()).await;
    is_well(&howdah).await;
    world.kill();
    pauses(&howdah).await;
    let request = create_database("orders", "shop");
    let answer = howdah.databases().await.create_database(request).await;
    refused(answer, Code::FailedPrecondition, "INSTANCE_NOT_READY");
    let start = accept!(howdah, start_instance, StartInstanceRequest);
    assert!(is_success(&howdah.wait(&start).await));
    assert!(world.runs());
    is_well(&howdah).await;

    // A server that comes up by itself meanwhile is available again.
    world.kill();
    eventually("it is recovered", async || world.runs()).await;
    is_well(&howdah).await;
    world.kill();
    pauses(&howdah).await;
    world.revive();
    is_well(&howdah).await;
}

/// The server is away before anything is dropped, or in the middle of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_never_came_to_its_drop_leaves_the_database_ready() {
    let world = World::new(&[]);
    world.is(&json!({}));
    let mut howdah = Howdah::new(world.options().await);
    howdah.start("").await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    let metadata = Metadata::of(&howdah).await;
    let delete = DeleteDatabaseRequest {
        name: format!("{}/databases/shop", instance_name("orders")),
        ..DeleteDatabaseRequest::default()
    };
    world.is_out_of_reach();
    let accepted = howdah
        .databases()
        .await
        .delete_database(delete.clone())
        .await;
    exhaust(&metadata).await;
    ends_with(&howdah, accepted.unwrap().get_ref(), "SERVER_UNAVAILABLE").await;
    assert_eq!(metadata.count("databases where state = 'READY'").await, 1);

    world.is(&json!({}));
    howdah.stop().await;
    howdah
        .start("database.delete.database.after_sql=return")
        .await;
    let accepted = howdah.databases().await.delete_database(delete).await;
    let accepted = accepted.unwrap().into_inner();
    howdah.ended().await;
    world.is_out_of_reach();
    howdah.start("").await;
    exhaust(&metadata).await;
    ends_with(&howdah, &accepted, "SERVER_UNAVAILABLE").await;
    assert_eq!(metadata.count("databases where state = 'FAILED'").await, 1);
}

/// A drop waits for every session of the server: it must not hold its worker.
#[tokio::test(flavor = "multi_thread")]
async fn the_drop_that_takes_a_creation_back_has_a_limit() {
    let world = World::new(&[("log_statement", "all")]);
    world.is(&json!({}));
    let mut howdah = Howdah::new(world.options().await);
    // Longer than a busy machine takes to bring the cancellation there.
    let slow = "database.create.database.after_sql=1*sleep(4000)";
    howdah.start(slow).await;
    howdah.instance("orders").await;
    let request = create_database("orders", "shop");
    let create = howdah.databases().await.create_database(request).await;
    let create = create.unwrap().into_inner();
    eventually("the database is being made", async || {
        world.log().contains("statement: create database")
    })
    .await;
    let request = CancelOperationRequest {
        name: create.name.clone(),
    };
    let cancelled = howdah.operations().await.cancel_operation(request).await;
    cancelled.unwrap();
    ends_with(&howdah, &create, "OPERATION_CANCELLED").await;
    let log = world.log();
    let drop = log
        .lines()
        .position(|line| line.contains("statement: drop database"));
    let lines: Vec<&str> = log.lines().take(drop.expect("a drop") + 1).collect();
    // Other sessions of Howdah's look at the server meanwhile.
    let session = |line: &str| {
        line.split_once('[')
            .and_then(|(_, rest)| rest.split(']').next().map(str::to_owned))
    };
    let drops = session(lines[lines.len() - 1]).expect("a process id");
    let mut own = lines
        .iter()
        .rev()
        .filter(|line| session(line).as_ref() == Some(&drops));
    let last = own.find(|line| line.contains("statement: ") && !line.contains("drop database"));
    let last = last.expect("a statement before");
    assert!(last.contains("statement_timeout = '30s'"), "{last}");
}

/// A recovery may wait for an hour: a user's wish takes its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_the_place_of_a_recovery_that_waits() {
    let world = World::new(&[]);
    world.is(&json!({}));
    let howdah = Howdah::serve(world.options().await).await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;
    world.is(&json!({ "looks": 1_000_000 }));
    world.kill();
    let waits = "operations where kind = 'instance.recover' and waiting_since is not null
        and end_time is null";
    eventually("the recovery waits", async || {
        metadata.count(waits).await == 1
    })
    .await;
    let stop = accept!(howdah, stop_instance, StopInstanceRequest);
    assert!(is_success(&howdah.wait(&stop).await));
    assert_eq!(instance(&howdah).await.state(), State::Stopped);
    let given_up = "operations where kind = 'instance.recover' and state = 'CANCELLED'";
    assert_eq!(metadata.count(given_up).await, 1);
    // So does another start that waits.
    let start = accept!(howdah, start_instance, StartInstanceRequest);
    let waits = "operations where waiting_since is not null and end_time is null";
    eventually("the start waits", async || metadata.count(waits).await == 1).await;
    let stop = accept!(howdah, stop_instance, StopInstanceRequest);
    assert!(is_success(&howdah.wait(&stop).await));
    ends_with(&howdah, &start, "OPERATION_CANCELLED").await;
    // And an undeletion, whose server may have to recover first.
    let delete = accept!(howdah, delete_instance, DeleteInstanceRequest);
    assert!(is_success(&howdah.wait(&delete).await));
    let undelete = accept!(howdah, undelete_instance, UndeleteInstanceRequest);
    eventually("it waits", async || metadata.count(waits).await == 1).await;
    let stop = accept!(howdah, stop_instance, StopInstanceRequest);
    assert!(is_success(&howdah.wait(&stop).await));
    ends_with(&howdah, &undelete, "OPERATION_CANCELLED").await;
    assert_eq!(instance(&howdah).await.state(), State::Stopped);
}
