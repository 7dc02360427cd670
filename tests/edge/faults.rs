//! Handlers that panic.

use howdah::{
    api::status,
    domain::Reason,
    pb::v1::{GetDatabaseRequest, SubscribeRequest},
};
use tonic::Code;

use super::harness::{Edge, Setup};

fn named(name: &str) -> GetDatabaseRequest {
    GetDatabaseRequest {
        name: name.to_owned(),
    }
}

#[tokio::test]
async fn panic_is_internal_and_the_connection_lives_on() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let status = client
        .databases()
        .get_database(named("panic"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(status::reason(&status), Some(Reason::Internal));
    assert!(!status.message().contains("on request"), "{status:?}");
    client
        .databases()
        .get_database(named("shop"))
        .await
        .unwrap();
    edge.measured(&["GetDatabase", "error_type=\"INTERNAL\""])
        .await;
}

#[tokio::test]
async fn panic_in_a_stream_is_internal() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let request = SubscribeRequest {
        database: "panic".to_owned(),
        ..Default::default()
    };
    let mut stream = client
        .streams()
        .subscribe(request)
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().unwrap();
    edge.service.next.notify_one();
    let status = stream.message().await.unwrap_err();
    assert_eq!(status::reason(&status), Some(Reason::Internal));
    client
        .databases()
        .get_database(named("shop"))
        .await
        .unwrap();
    edge.measured(&["Subscribe", "error_type=\"INTERNAL\""])
        .await;
}
