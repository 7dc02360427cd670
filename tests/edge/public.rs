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
use tonic_reflection::pb::{v1, v1alpha};
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
            edge.health.serving().await;
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
    edge.health.serving().await;
    let client = edge.connect().await;
    let mut watch = health(&client).watch(of("")).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    edge.health.not_serving().await;
    let second = watch.message().await.unwrap().unwrap();
    assert_eq!(second.status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn reflection_v1_lists_and_describes() {
    use v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let ask = |request| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let symbol = "howdah.v1.DatabaseService.GetDatabase".to_owned();
    let requests = stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(symbol)),
    ]);
    let mut answers = ServerReflectionClient::with_origin(client.channel(), Raw::origin())
        .server_reflection_info(requests)
        .await
        .unwrap()
        .into_inner();
    let list = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = list else {
        panic!("{list:?}");
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for name in [
        "howdah.v1.InstanceService",
        "howdah.v1.DatabaseService",
        "howdah.v1.ChangeStreamService",
        "google.longrunning.Operations",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ] {
        assert!(
            names.iter().any(|listed| listed == name),
            "{name} in {names:?}"
        );
    }
    let file = answers.message().await.unwrap().unwrap().message_response;
    assert!(
        matches!(file, Some(MessageResponse::FileDescriptorResponse(_))),
        "{file:?}"
    );
}

#[tokio::test]
async fn reflection_v1alpha_lists() {
    use v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let requests = stream::iter([ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    }]);
    let mut answers = ServerReflectionClient::with_origin(client.channel(), Raw::origin())
        .server_reflection_info(requests)
        .await
        .unwrap()
        .into_inner();
    let list = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = list else {
        panic!("{list:?}");
    };
    assert!(
        list.service
            .iter()
            .any(|service| service.name == "howdah.v1.InstanceService")
    );
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
