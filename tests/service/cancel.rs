//! CancelOperation takes back what was done, where there is a way back.

use howdah::pb::{
    google::longrunning::{CancelOperationRequest, Operation},
    v1::{
        GetInstanceRequest, Instance, OperationMetadata, StopInstanceRequest, instance::State,
        operation_metadata::stage,
    },
};
use prost::Message as _;
use tonic::Code;

use super::rig::{Metadata, failure, refused};
use crate::{
    soak::crash::world::is_success,
    support::howdah::{
        Howdah, Options, create_instance, eventually, instance_name, signal, succeeded,
    },
};

async fn cancel(howdah: &Howdah, operation: &Operation) -> Result<(), tonic::Status> {
    let request = CancelOperationRequest {
        name: operation.name.clone(),
    };
    let answer = howdah.operations().await.cancel_operation(request).await;
    answer.map(|_| ())
}

/// Waits until the first stage is under way, in which the program sleeps for a while.
async fn begun(metadata: &Metadata, operation: &Operation) {
    let (_, id) = operation.name.rsplit_once('/').unwrap();
    let running = format!("operation_stages where operation_id = '{id}' and state = 'RUNNING'");
    eventually("it has begun", async || metadata.count(&running).await > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_is_taken_back() {
    let mut howdah = Howdah::new(Options::external().await);
    howdah
        .start("instance.create.start.before_wait=1*sleep(4000)")
        .await;
    let metadata = Metadata::of(&howdah).await;
    let request = create_instance("orders", Instance::default());
    let accepted = howdah.instances().await.create_instance(request).await;
    let operation = accepted.unwrap().into_inner();
    begun(&metadata, &operation).await;
    cancel(&howdah, &operation).await.unwrap();
    // Asked again, it is no news.
    cancel(&howdah, &operation).await.unwrap();
    let done = howdah.wait(&operation).await;
    assert_eq!(
        failure(&done),
        (Code::Cancelled, "OPERATION_CANCELLED".to_owned())
    );
    let told = OperationMetadata::decode(done.metadata.unwrap().value.as_slice()).unwrap();
    let undone = |stage: &howdah::pb::v1::operation_metadata::Stage| {
        matches!(stage.state(), stage::State::Undone | stage::State::Pending)
    };
    assert!(told.stages.iter().all(undone), "{:?}", told.stages);
    assert!(told.cancel_requested);
    // Nothing of it is left, and a second one has its way.
    assert!(howdah.local("servers").is_empty() && howdah.servers().is_empty());
    let request = GetInstanceRequest {
        name: instance_name("orders"),
    };
    let answer = howdah.instances().await.get_instance(request).await;
    refused(answer, Code::NotFound, "INSTANCE_NOT_FOUND");
    howdah.instance("orders").await;
    // What has ended is beyond it: no error, and nothing changes.
    cancel(&howdah, &operation).await.unwrap();
}

/// Programs of that name that work for a server of users.
pub(super) fn programs(howdah: &Howdah, name: &str) -> Vec<u32> {
    let place = howdah.data_dir().join("local");
    let works_there = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line
            .split(|byte| *byte == 0)
            .map(String::from_utf8_lossy)
            .collect();
        words[0].ends_with(name)
            && words
                .iter()
                .any(|word| word.contains(&*place.to_string_lossy()))
    };
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(works_there).collect()
}

/// A program that hangs keeps no worker from a cancellation, which goes on when it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_hangs_is_taken_back() {
    let howdah = Howdah::serve(Options::external().await).await;
    let metadata = Metadata::of(&howdah).await;
    let request = create_instance("orders", Instance::default());
    let accepted = howdah.instances().await.create_instance(request).await;
    let operation = accepted.unwrap().into_inner();
    eventually("initdb runs", async || {
        !programs(&howdah, "/initdb").is_empty()
    })
    .await;
    let frozen = programs(&howdah, "/initdb");
    for pid in &frozen {
        signal(*pid, "STOP");
    }
    cancel(&howdah, &operation).await.unwrap();
    let waits = "operations where state = 'UNDOING' and worker is null";
    eventually("the undo waits", async || metadata.count(waits).await == 1).await;
    for pid in &frozen {
        signal(*pid, "CONT");
    }
    let done = howdah.wait(&operation).await;
    let cancelled = (Code::Cancelled, "OPERATION_CANCELLED".to_owned());
    assert_eq!(failure(&done), cancelled);
    assert!(howdah.local("servers").is_empty() && howdah.servers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_way_back_goes_on() {
    let mut howdah = Howdah::new(Options::external().await);
    howdah
        .start("instance.stop.stop.before_effect=1*sleep(4000)")
        .await;
    let metadata = Metadata::of(&howdah).await;
    howdah.instance("orders").await;
    let request = StopInstanceRequest {
        name: instance_name("orders"),
        ..StopInstanceRequest::default()
    };
    let accepted = howdah.instances().await.stop_instance(request).await;
    let operation = accepted.unwrap().into_inner();
    begun(&metadata, &operation).await;
    let answer = cancel(&howdah, &operation).await.map(tonic::Response::new);
    refused(
        answer,
        Code::FailedPrecondition,
        "OPERATION_NOT_CANCELLABLE",
    );
    let done = howdah.wait(&operation).await;
    assert!(is_success(&done));
    assert_eq!(succeeded::<Instance>(&done).state(), State::Stopped);
}

/// What is too old is forgotten: first the request, and then its operation.
#[tokio::test]
async fn old_operations_are_forgotten() {
    let mut howdah = Howdah::new(Options::external().await);
    howdah.start("").await;
    let mut request = create_instance("orders", Instance::default());
    request.request_id = uuid::Uuid::new_v4().to_string();
    let accepted = howdah.instances().await.create_instance(request).await;
    howdah.wait(accepted.unwrap().get_ref()).await;
    let metadata = Metadata::of(&howdah).await;
    assert_eq!(metadata.count("operations").await, 1);
    assert_eq!(metadata.count("requests").await, 1);
    metadata
        .execute(
            "update operations set end_time = end_time - interval '31 days';
             update requests set create_time = create_time - interval '25 hours'",
        )
        .await;
    eventually("they are forgotten", async || {
        metadata.count("operations").await + metadata.count("requests").await == 0
    })
    .await;
    assert_eq!(metadata.count("operation_stages").await, 0);
}

/// A busy system tells of many changes: none of them may keep a lease from being
/// renewed.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_holds_while_others_change() {
    let options = Options::external()
        .await
        .with("HOWDAH_OPERATIONS_LEASE", "3s");
    let howdah = Howdah::serve(options).await;
    let metadata = Metadata::of(&howdah).await;
    let request = create_instance("orders", Instance::default());
    let accepted = howdah.instances().await.create_instance(request).await;
    let operation = accepted.unwrap().into_inner();
    eventually("initdb runs", async || {
        !programs(&howdah, "/initdb").is_empty()
    })
    .await;
    let frozen = programs(&howdah, "/initdb");
    for pid in &frozen {
        signal(*pid, "STOP");
    }
    let old = "operations where now() > create_time + interval '7s'";
    eventually("the operation is older than two leases", async || {
        metadata
            .execute("select pg_notify('howdah_operations', gen_random_uuid()::text)")
            .await;
        metadata.count(old).await == 1
    })
    .await;
    let once = "operations where token = 1 and worker is not null";
    assert_eq!(metadata.count(once).await, 1, "it was claimed once");
    for pid in &frozen {
        signal(*pid, "CONT");
    }
    assert!(is_success(&howdah.wait(&operation).await));
}
