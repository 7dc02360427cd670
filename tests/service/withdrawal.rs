//! A stop or a restart that waits for its turn can be taken back.

use howdah::pb::{
    google::longrunning::{CancelOperationRequest, Operation},
    v1::{
        GetInstanceRequest, Instance, OperationMetadata, RestartInstanceRequest,
        StartInstanceRequest, StopInstanceRequest, condition::Status, instance::State,
    },
};
use prost::Message as _;
use tonic::Code;

use super::rig::{Metadata, failure};
use crate::{
    soak::crash::world::is_success,
    support::howdah::{Howdah, Options, create_database, eventually, instance_name, succeeded},
};

/// A creation of a database that works for some seconds, beside which nothing stops.
async fn with_work(id: &str) -> (Howdah, Operation) {
    let mut howdah = Howdah::new(Options::external().await);
    howdah
        .start("database.create.role.before_effect=1*sleep(5000)")
        .await;
    howdah.instance("orders").await;
    let request = create_database("orders", id);
    let accepted = howdah.databases().await.create_database(request).await;
    let work = accepted.unwrap().into_inner();
    let metadata = Metadata::of(&howdah).await;
    let running = "operation_stages where name = 'role' and state = 'RUNNING'";
    eventually("it works", async || metadata.count(running).await == 1).await;
    (howdah, work)
}

fn can_be_cancelled(operation: &Operation) -> bool {
    let metadata = operation.metadata.as_ref().unwrap();
    let metadata = OperationMetadata::decode(metadata.value.as_slice());
    metadata.unwrap().cancellable
}

async fn instance(howdah: &Howdah) -> Instance {
    let request = GetInstanceRequest {
        name: instance_name("orders"),
    };
    let answer = howdah.instances().await.get_instance(request).await;
    answer.unwrap().into_inner()
}

fn is_available(instance: &Instance) -> bool {
    let mut conditions = instance.conditions.iter();
    conditions.any(|it| it.r#type == "Available" && it.status() == Status::True)
}

/// Whether it says so; with a worker that sleeps, a look at its server may have timed out.
fn is_stopping(instance: &Instance) -> bool {
    let mut conditions = instance.conditions.iter();
    conditions.any(|it| ["STOPPING", "RESTARTING"].contains(&it.reason.as_str()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_withdrawn_before_its_turn() {
    let (howdah, work) = with_work("shop").await;
    let servers = howdah.servers();
    let request = StopInstanceRequest {
        name: instance_name("orders"),
        ..StopInstanceRequest::default()
    };
    let accepted = howdah.instances().await.stop_instance(request).await;
    let stop = accepted.unwrap().into_inner();
    assert!(can_be_cancelled(&stop));
    assert_eq!(instance(&howdah).await.state(), State::Stopping);
    let cancel = CancelOperationRequest {
        name: stop.name.clone(),
    };
    let answer = howdah.operations().await.cancel_operation(cancel).await;
    answer.unwrap();
    let ended = howdah.operation(&stop.name).await;
    assert!(ended.done && !can_be_cancelled(&ended));
    assert_eq!(failure(&ended).0, Code::Cancelled);
    let after = instance(&howdah).await;
    assert_eq!(after.state(), State::Ready);
    assert!(!is_stopping(&after) && !after.reconciling, "{after:?}");
    assert!(is_success(&howdah.wait(&work).await));
    let available = async || is_available(&instance(&howdah).await);
    eventually("it is available", available).await;
    assert_eq!(howdah.servers(), servers);
    // It is wanted, too.
    let metadata = Metadata::of(&howdah).await;
    assert_eq!(metadata.count("servers where wanted = 'RUNNING'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_takes_the_place_of_a_restart_that_waits() {
    let (howdah, work) = with_work("shop").await;
    let servers = howdah.servers();
    let request = RestartInstanceRequest {
        name: instance_name("orders"),
        ..RestartInstanceRequest::default()
    };
    let accepted = howdah.instances().await.restart_instance(request).await;
    let restart = accepted.unwrap().into_inner();
    let start = StartInstanceRequest {
        name: instance_name("orders"),
        validate_only: true,
        ..StartInstanceRequest::default()
    };
    // Only checked, it withdraws nothing.
    let checked = howdah.instances().await.start_instance(start.clone()).await;
    assert!(checked.unwrap().get_ref().done);
    assert!(!howdah.operation(&restart.name).await.done);
    let start = StartInstanceRequest {
        validate_only: false,
        ..start
    };
    let accepted = howdah.instances().await.start_instance(start).await;
    let start = accepted.unwrap().into_inner();
    let started: Instance = succeeded(&start);
    assert_eq!(started.state(), State::Ready);
    let ended = howdah.operation(&restart.name).await;
    assert_eq!(failure(&ended).0, Code::Cancelled);
    assert!(!is_stopping(&instance(&howdah).await));
    assert!(is_success(&howdah.wait(&work).await));
    assert_eq!(howdah.servers(), servers, "it was not restarted");
}
