//! Unix sockets that are removed under running servers, as by a logout without linger or a
//! cleaner of /tmp.

use std::fs;

use howdah::pb::v1::{
    Condition, Connection, GetInstanceRequest, Instance, RestartInstanceRequest,
    StopInstanceRequest, instance::State,
};

use super::rig::{run_sql, subscribe};
use crate::support::howdah::{Howdah, Options, eventually, instance_name, succeeded};

/// The condition `Available` of the instance, as soon as it can be read.
async fn available(howdah: &Howdah) -> Option<Condition> {
    let request = GetInstanceRequest {
        name: instance_name("orders"),
    };
    let found = howdah.instances().await.get_instance(request).await;
    let conditions = found.ok()?.into_inner().conditions;
    let mut conditions = conditions.into_iter();
    conditions.find(|condition| condition.r#type == "Available")
}

async fn has_reason(howdah: &Howdah, reason: &str) {
    eventually(reason, async || {
        let found = available(howdah).await;
        found.is_some_and(|condition| condition.reason == reason)
    })
    .await;
}

async fn restart(howdah: &Howdah) {
    let request = RestartInstanceRequest {
        name: instance_name("orders"),
        ..RestartInstanceRequest::default()
    };
    let accepted = howdah.instances().await.restart_instance(request).await;
    let done = howdah.wait(accepted.unwrap().get_ref()).await;
    assert_eq!(succeeded::<Instance>(&done).state(), State::Ready);
}

/// The metadata's server is restarted, a user's server is not: its clients would notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_socket_does_not_take_a_server_away() {
    let howdah = Howdah::serve(Options::default()).await;
    howdah.instance("orders").await;
    let shop: Connection = howdah.database("orders", "shop").await;
    run_sql(&shop, "create table items (id int primary key)");
    let pids = howdah.servers();
    fs::remove_dir_all(howdah.directory().join("run")).unwrap();

    has_reason(&howdah, "SOCKET_GONE").await;
    let message = available(&howdah).await.unwrap().message;
    assert!(message.contains("restart"), "{message}");
    assert_eq!(howdah.servers(), pids);
    // The metadata's server, whose socket was there too, is restarted once.
    eventually("the metadata is back", async || {
        let restarted = "the socket of the metadata server is gone";
        howdah.log().contains(restarted) && available(&howdah).await.is_some()
    })
    .await;
    // Howdah still works on it, and so do streams.
    howdah.database("orders", "billing").await;
    drop(subscribe(&howdah, &shop).await);

    restart(&howdah).await;
    has_reason(&howdah, "SERVER_RUNNING").await;
    assert_ne!(howdah.servers(), pids);
    let sockets = fs::read_dir(howdah.directory().join("run")).unwrap();
    assert!(sockets.count() > 0);

    // A stop is no different.
    fs::remove_dir_all(howdah.directory().join("run")).unwrap();
    has_reason(&howdah, "SOCKET_GONE").await;
    let request = StopInstanceRequest {
        name: instance_name("orders"),
        ..StopInstanceRequest::default()
    };
    // The metadata's server may be on its way down and up again.
    eventually("the stop is accepted", async || {
        let accepted = howdah
            .instances()
            .await
            .stop_instance(request.clone())
            .await;
        let Ok(accepted) = accepted else { return false };
        let done = howdah.wait(accepted.get_ref()).await;
        succeeded::<Instance>(&done).state() == State::Stopped
    })
    .await;
    restart(&howdah).await;
    has_reason(&howdah, "SERVER_RUNNING").await;
}
