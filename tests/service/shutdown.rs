//! SIGTERM: who waits is told, and what users have goes on.

use futures::{StreamExt as _, stream};
use howdah::pb::{
    google::longrunning::{
        GetOperationRequest, WaitOperationRequest, operations_client::OperationsClient,
    },
    v1::ChangeBatch,
};
use tokio::task::JoinSet;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse,
    server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
};
use tonic_types::StatusExt as _;

use super::rig::{Metadata, run_sql, subscribe};
use crate::support::howdah::{Howdah, Options, PROJECT, reason, signal};

#[track_caller]
fn told_to_come_back(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(reason(status), "SHUTTING_DOWN", "{status:?}");
    let retry = status.get_error_details().retry_info().cloned();
    let delay = retry.and_then(|retry| retry.retry_delay);
    assert!(delay.is_some_and(|delay| !delay.is_zero()), "{status:?}");
}

async fn last(stream: &mut Streaming<ChangeBatch>) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a status"),
            Err(status) => return status,
        }
    }
}

async fn watch(howdah: &Howdah) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest::default();
    let mut client = HealthClient::new(howdah.channel().await);
    client.watch(request).await.unwrap().into_inner()
}

/// Asks once, and keeps the stream open as a tool in somebody's terminal does.
async fn reflect(howdah: &Howdah) -> Streaming<ServerReflectionResponse> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = stream::iter([request]).chain(stream::pending());
    let mut client = ServerReflectionClient::new(howdah.channel().await);
    let answers = client.server_reflection_info(requests).await;
    answers.unwrap().into_inner()
}

/// Returns when what was sent before over the same connection has arrived.
async fn reaches(mut operations: OperationsClient<Channel>, name: String) {
    let request = GetOperationRequest { name };
    operations.get_operation(request).await.unwrap();
}

async fn ends_in_order(name: &str) {
    // Far longer than the test waits: nothing needs to be cut off.
    let options = Options::external().await;
    let options = options.with("HOWDAH_SERVER_DRAIN_TIMEOUT", "10m");
    let mut howdah = Howdah::serve(options).await;
    howdah.instance("orders").await;
    let shop = howdah.database("orders", "shop").await;
    run_sql(&shop, "create table items (id int primary key)");
    let mut changes = subscribe(&howdah, &shop).await;
    let metadata = Metadata::of(&howdah).await;
    metadata.occupy("orders").await;
    let sql = "select id::text from operations where kind = 'test.occupy'";
    let id: String = metadata.0.query_one(sql, &[]).await.unwrap().get(0);
    let request = WaitOperationRequest {
        name: format!("{PROJECT}/operations/{id}"),
        timeout: Some(prost_types::Duration {
            seconds: 300,
            nanos: 0,
        }),
    };
    let operations = howdah.operations().await;
    let mut waiter = operations.clone();
    let mut waiting = JoinSet::new();
    let name_of_it = request.name.clone();
    waiting.spawn(async move { waiter.wait_operation(request).await });
    reaches(operations, name_of_it).await;
    let mut health = watch(&howdah).await;
    let first = health.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let mut described = reflect(&howdah).await;
    described.message().await.unwrap().unwrap();
    let servers = howdah.servers();
    assert_eq!(servers.len(), 1);

    signal(howdah.pid(), name);
    let (waited, status, next) =
        tokio::join!(waiting.join_next(), last(&mut changes), health.message());
    let waited = waited.unwrap().unwrap();
    told_to_come_back(&waited.unwrap_err());
    told_to_come_back(&status);
    // The change is told before the stream ends.
    assert_eq!(next.unwrap().unwrap().status(), ServingStatus::NotServing);
    told_to_come_back(&health.message().await.unwrap_err());
    told_to_come_back(&described.message().await.unwrap_err());
    assert!(howdah.ended().await.success(), "{}", howdah.log());
    assert!(!howdah.data_dir().join("endpoint").exists());
    assert!(!howdah.data_dir().join("admin-endpoint").exists());

    assert_eq!(howdah.servers(), servers);
    run_sql(&shop, "insert into items values (1)");
    howdah.start("").await;
    assert_eq!(howdah.servers(), servers);
    metadata.release().await;
    howdah.database("orders", "more").await;
}

#[tokio::test]
async fn sigterm_ends_it_in_order() {
    ends_in_order("TERM").await;
}

#[tokio::test]
async fn sigint_does_the_same() {
    ends_in_order("INT").await;
}

/// Also before it serves: while the metadata database is away.
#[tokio::test]
async fn sigterm_ends_the_wait_for_metadata() {
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nowhere.local_addr().unwrap().port();
    drop(nowhere);
    let options = Options {
        database_url: Some(format!("postgres://nobody@127.0.0.1:{port}/nothing")),
        ..Options::default()
    };
    let mut howdah = Howdah::new(options);
    howdah.spawn("");
    crate::support::howdah::eventually("it waits", async || {
        howdah.log().contains("waiting for the metadata database")
    })
    .await;
    assert!(howdah.stop().await.success(), "{}", howdah.log());
}
