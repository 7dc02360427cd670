//! Health and reflection.

use futures::stream;
use howdah::{
    api::{listener::Settings, status},
    domain::Reason,
};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1;
use tonic_types::StatusExt as _;

use super::harness::{BOUND, Channel, Edge, Raw, Setup};

fn health(client: &Raw) -> HealthClient<Channel> {
    HealthClient::with_origin(client.channel(), Raw::origin())
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn health_is_told_per_service() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    for (serving, expected) in [
        (false, ServingStatus::NotServing),
        (true, ServingStatus::Serving),
    ] {
        if serving {
            edge.health.serving();
        }
        for service in ["", "howdah.v1.DatabaseService"] {
            let answer = health(&client).check(of(service)).await.unwrap();
            assert_eq!(answer.into_inner().status(), expected, "{service}");
        }
    }
    let status = health(&client).check(of("no.Service")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status::reason(&status), Some(Reason::ServiceNotFound));
}

#[tokio::test]
async fn health_watch_sees_the_shutdown() {
    let edge = Edge::start(Setup::default()).await;
    edge.health.serving();
    let client = edge.connect().await;
    let mut watch = health(&client).watch(of("")).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    edge.health.not_serving();
    let second = watch.message().await.unwrap().unwrap();
    assert_eq!(second.status(), ServingStatus::NotServing);
}

/// By the protocol, so that a client waits for a service that is still to come.
#[tokio::test]
async fn health_watch_of_an_unknown_service_stays_open() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let asked = health(&client).watch(of("no.Service")).await;
    let mut watch = asked.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    edge.health.serving();
    let next = tokio::time::timeout(std::time::Duration::from_millis(100), watch.message()).await;
    assert!(next.is_err(), "{next:?}");
    edge.drain.cancel();
    let status = watch.message().await.unwrap_err();
    assert_eq!(status::reason(&status), Some(Reason::ShuttingDown));
}

/// A status that was said already is not said again.
#[tokio::test]
async fn health_watch_says_each_status_once() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let asked = health(&client).watch(of("")).await;
    let mut watch = asked.unwrap().into_inner();
    let mut next = async || watch.message().await.unwrap().unwrap().status();
    assert_eq!(next().await, ServingStatus::NotServing);
    edge.health.not_serving();
    edge.health.serving();
    assert_eq!(next().await, ServingStatus::Serving);
    edge.health.serving();
    edge.health.not_serving();
    assert_eq!(next().await, ServingStatus::NotServing);
}

/// A client that only listens does not hold up a shutdown.
#[tokio::test]
async fn open_reflection_and_health_end_at_the_drain() {
    use v1::{ServerReflectionRequest, server_reflection_client::ServerReflectionClient};
    let settings = Settings {
        drain_timeout: BOUND * 10,
        ..Settings::default()
    };
    let mut edge = Edge::start(Setup {
        settings,
        ..Setup::default()
    })
    .await;
    let client = edge.connect().await;
    let silent = stream::pending::<ServerReflectionRequest>();
    let mut answers = ServerReflectionClient::with_origin(client.channel(), Raw::origin())
        .server_reflection_info(silent)
        .await
        .unwrap()
        .into_inner();
    let mut watch = health(&client).watch(of("")).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    edge.drain.cancel();
    let told = [
        answers.message().await.map(|_| ()),
        watch.message().await.map(|_| ()),
    ];
    for status in told.map(Result::unwrap_err) {
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status::reason(&status), Some(Reason::ShuttingDown));
        assert!(status.get_details_retry_info().is_some());
    }
    edge.ended().await;
}
