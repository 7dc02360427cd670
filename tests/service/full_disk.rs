//! The disk of users' servers is full.

use std::fs;

use howdah::pb::{
    google::longrunning::Operation,
    v1::{
        Condition, GetInstanceRequest, Instance, OperationMetadata, RestartInstanceRequest,
        condition::Status, instance::State,
    },
};
use prost::Message as _;

use crate::support::{
    howdah::{Howdah, Options, eventually, instance_name, succeeded},
    small_disk::{SmallDisk, may_mount},
};

async fn instance(howdah: &Howdah) -> Instance {
    let request = GetInstanceRequest {
        name: instance_name("orders"),
    };
    let found = howdah.instances().await.get_instance(request).await;
    found.unwrap().into_inner()
}

fn available(instance: &Instance) -> &Condition {
    let mut conditions = instance.conditions.iter();
    let found = conditions.find(|condition| condition.r#type == "Available");
    found.unwrap()
}

async fn is_available(howdah: &Howdah, status: Status, reason: &str) {
    eventually(reason, async || {
        let instance = instance(howdah).await;
        let found = available(&instance);
        found.status() == status && found.reason == reason
    })
    .await;
}

fn last_error(operation: &Operation) -> String {
    let metadata = operation.metadata.as_ref().unwrap();
    let metadata = OperationMetadata::decode(metadata.value.as_slice());
    metadata.unwrap().last_error
}

/// A server that runs on a full disk is not called available, and one that cannot start on
/// it is not called starting. With room again both go on by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named() {
    if !may_mount() {
        return;
    }
    let mut howdah = Howdah::new(Options::external().await);
    let root = howdah.data_dir().join("local");
    fs::create_dir_all(&root).unwrap();
    let disk = SmallDisk::mount(root, "100m");
    howdah.start("supervision.inspection=return(300)").await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    is_available(&howdah, Status::True, "SERVER_RUNNING").await;

    let filler = disk.fill();
    is_available(&howdah, Status::Unknown, "DISK_FULL").await;
    fs::remove_file(&filler).unwrap();
    is_available(&howdah, Status::True, "SERVER_RUNNING").await;

    disk.fill();
    is_available(&howdah, Status::Unknown, "DISK_FULL").await;
    let request = RestartInstanceRequest {
        name: instance_name("orders"),
        ..RestartInstanceRequest::default()
    };
    let accepted = howdah.instances().await.restart_instance(request).await;
    let restart = accepted.unwrap().into_inner();
    eventually("the restart says why it waits", async || {
        let now = howdah.operation(&restart.name).await;
        assert!(!now.done, "{now:?}");
        last_error(&now).contains("no space is left")
    })
    .await;
    fs::remove_file(&filler).unwrap();
    let done = howdah.wait(&restart).await;
    assert_eq!(succeeded::<Instance>(&done).state(), State::Ready);
    is_available(&howdah, Status::True, "SERVER_RUNNING").await;
    howdah.database("orders", "more").await;
}
