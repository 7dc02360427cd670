//! Steps that wait for something outside.

use howdah::pb::v1::{
    Instance, OperationMetadata, StopInstanceRequest, instance::State, operation_metadata::stage,
};
use prost::Message as _;

use super::{fairness::processes, rig::Metadata};
use crate::support::howdah::{Howdah, Options, eventually, instance_name, signal, succeeded};

async fn stages(howdah: &Howdah, name: &str) -> Vec<howdah::pb::v1::operation_metadata::Stage> {
    let operation = howdah.operation(name).await;
    let metadata = operation.metadata.unwrap();
    OperationMetadata::decode(metadata.value.as_slice())
        .unwrap()
        .stages
}

/// The only worker is free while a frozen server is waited for, and a process that was
/// killed meanwhile goes on with the wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_waits_holds_no_worker() {
    let options = Options::external()
        .await
        .with("HOWDAH_OPERATIONS_WORKERS", "1");
    let mut howdah = Howdah::serve(options).await;
    howdah.instance("orders").await;
    let frozen = processes(&howdah);
    for pid in &frozen {
        signal(*pid, "STOP");
    }
    let request = StopInstanceRequest {
        name: instance_name("orders"),
        ..StopInstanceRequest::default()
    };
    let accepted = howdah.instances().await.stop_instance(request).await;
    let stop = accepted.unwrap().into_inner();
    eventually("it says what it waits for", async || {
        stages(&howdah, &stop.name).await[0].waits_for == "the server to stop"
    })
    .await;
    let waits = &stages(&howdah, &stop.name).await[0];
    assert_eq!(waits.state(), stage::State::Running);
    assert_eq!(waits.progress_percent, 50);
    howdah.instance("other").await;
    assert!(!howdah.operation(&stop.name).await.done);

    howdah.kill().await;
    howdah.start("").await;
    let metadata = Metadata::of(&howdah).await;
    let waiting = "operations where waiting_since < now() - interval '10 seconds'
        and end_time is null and failures = 0";
    eventually("it is looked at again and again", async || {
        metadata.count(waiting).await == 1
    })
    .await;
    for pid in &frozen {
        signal(*pid, "CONT");
    }
    let stopped: Instance = succeeded(&howdah.wait(&stop).await);
    assert_eq!(stopped.state(), State::Stopped);
    assert_eq!(stages(&howdah, &stop.name).await[0].waits_for, "");
}
