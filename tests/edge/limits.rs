//! Load shed, rates and who is let in.

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, stream::pending};
use howdah::{
    api::{
        server::{Caps, Limit, Limits, Permits},
        status,
    },
    domain::Reason,
    pb::v1::{GetDatabaseRequest, SubscribeRequest},
};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

use super::harness::{BOUND, Edge, Raw, Setup};

fn named(name: &str) -> GetDatabaseRequest {
    GetDatabaseRequest {
        name: name.to_owned(),
    }
}

async fn probe(client: &Raw) {
    HealthClient::with_origin(client.channel(), Raw::origin())
        .check(HealthCheckRequest::default())
        .await
        .expect("health is answered");
}

#[tokio::test]
async fn calls_over_the_bound_are_shed_but_probes_pass() {
    let edge = Edge::start(Setup {
        limits: Limits {
            permits: Permits {
                calls: Limit { all: 1, each: 2 },
                ..Permits::default()
            },
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let client = edge.connect().await;
    let mut databases = client.databases();
    let mut stuck = databases.get_database(named("hang")).boxed();
    tokio::select! {
        answer = &mut stuck => panic!("{answer:?}"),
        () = edge.measured(&["howdah_rpc_active", " 1"]) => {}
    }
    let status = client
        .databases()
        .get_database(named("shop"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status::reason(&status), Some(Reason::Overloaded));
    assert!(status.get_details_retry_info().is_some());
    probe(&client).await;
    drop(stuck);
    edge.measured(&["howdah_rpc_active", " 0"]).await;
    client
        .databases()
        .get_database(named("shop"))
        .await
        .unwrap();
}

/// A stream whose request never comes, and one that everybody may open.
#[tokio::test]
async fn callers_that_say_nothing_hold_no_permit_for_ever() {
    let edge = Edge::start(Setup {
        limits: Limits {
            permits: Permits {
                calls: Limit { all: 1, each: 2 },
                ..Permits::default()
            },
            deadlines: Caps {
                usual: Duration::from_secs(2),
                ..Caps::default()
            },
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let client = edge.connect().await;
    let silent = async |path: &str| {
        let body =
            tonic::body::Body::new(StreamBody::new(pending::<Result<Frame<Bytes>, Status>>()));
        let request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let request = request.body(body).unwrap();
        let answer = timeout(BOUND, client.sender.clone().send_request(request));
        let answer = answer.await.expect("an answer").unwrap();
        Status::from_header_map(answer.headers()).expect("a refusal")
    };
    let mut watch = silent("/grpc.health.v1.Health/Watch").boxed_local();
    tokio::select! {
        status = &mut watch => panic!("{status:?}"),
        () = edge.measured(&["howdah_rpc_active", " 1"]) => {}
    }
    // Public calls take no permit.
    let asked = client.databases().get_database(named("shop")).await;
    asked.unwrap();
    let status = silent("/howdah.v1.ChangeStreamService/Subscribe").await;
    assert_eq!(status::reason(&status), Some(Reason::DeadlineExceeded));
    let status = watch.await;
    assert_eq!(status::reason(&status), Some(Reason::DeadlineExceeded));
    let asked = client.databases().get_database(named("shop")).await;
    asked.unwrap();
}

#[tokio::test]
async fn callers_over_their_rate_are_told_when_to_come_back() {
    let edge = Edge::start(Setup {
        limits: Limits {
            rate: 1,
            burst: 2,
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let client = edge.connect().await;
    let mut refused = None;
    for _ in 0..4 {
        let answer = client.databases().get_database(named("shop")).await;
        refused = refused.or(answer.err());
    }
    let status = refused.expect("the third call in a row is over the rate");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status::reason(&status), Some(Reason::RateLimited));
    let quota = status.get_details_quota_failure().unwrap();
    assert_eq!(quota.violations[0].subject, "anonymous@127.0.0.1");
    let retry = status.get_details_retry_info().unwrap();
    assert!(retry.retry_delay.unwrap().as_secs() <= 1);
    probe(&client).await;
}

#[tokio::test]
async fn nobody_gets_in_without_credentials_but_probes_do() {
    let edge = Edge::start(Setup {
        anonymous: false,
        ..Setup::default()
    })
    .await;
    let client = edge.connect().await;
    let status = client
        .databases()
        .get_database(named("shop"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status::reason(&status), Some(Reason::CredentialsMissing));
    probe(&client).await;
}

#[tokio::test]
async fn only_probes_pass_before_the_start_is_complete() {
    let edge = Edge::start(Setup {
        started: false,
        ..Setup::default()
    })
    .await;
    let client = edge.connect().await;
    let asked = client.databases().get_database(named("shop")).await;
    let status = asked.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status::reason(&status), Some(Reason::MetadataUnavailable));
    assert!(status.get_details_retry_info().is_some());
    let request = SubscribeRequest::default();
    let status = client.streams().subscribe(request).await.unwrap_err();
    assert_eq!(status::reason(&status), Some(Reason::MetadataUnavailable));
    probe(&client).await;
    edge.started.set(true);
    let asked = client.databases().get_database(named("shop")).await;
    asked.unwrap();
}

#[tokio::test]
async fn user_of_a_unix_socket_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let edge = Edge::start(Setup {
        address: howdah::api::listener::BindAddress::Unix(directory.path().join("api")),
        anonymous: false,
        ..Setup::default()
    })
    .await;
    let stream = tokio::net::UnixStream::connect(edge.path()).await.unwrap();
    let client = Raw::over(stream).await;
    let answer = client
        .databases()
        .get_database(named("shop"))
        .await
        .unwrap();
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(answer.into_inner().owner, format!("uid:{uid}"));
}
