//! No caller keeps others from being answered.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{StreamExt as _, future::join_all, stream};
use howdah::{
    api::{
        listener::Settings,
        server::{Caps, Limit, Limits, Permits},
        status,
    },
    domain::Reason,
    pb::{
        google::longrunning::{
            Operation, WaitOperationRequest, operations_client::OperationsClient,
        },
        v1::{ChangeBatch, GetDatabaseRequest, SubscribeRequest},
    },
};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tonic::{Code, Response, Status, Streaming, body::Body};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

use super::harness::{BOUND, Edge, Raw, Setup};

const GET: &str = "/howdah.v1.DatabaseService/GetDatabase";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const OTHER: [u8; 4] = [127, 0, 0, 2];
const THIRD: [u8; 4] = [127, 0, 0, 3];

/// What an unfinished request counts at least.
const LEAST: usize = 16 * 1024;

fn with(permits: Permits) -> Setup {
    Setup {
        limits: Limits {
            permits,
            ..Limits::default()
        },
        ..Setup::default()
    }
}

fn named(name: &str) -> GetDatabaseRequest {
    GetDatabaseRequest {
        name: name.to_owned(),
    }
}

async fn answered(client: &Raw) {
    let mut databases = client.databases();
    let asked = databases.get_database(named("shop"));
    timeout(BOUND, asked).await.unwrap().unwrap();
}

/// A request of these frames, of which the end never comes.
fn unfinished(frames: Vec<Bytes>) -> http::Request<Body> {
    let frames = stream::iter(frames).map(|data| Ok::<_, Status>(Frame::data(data)));
    request(StreamBody::new(frames.chain(stream::pending())))
}

fn request<B>(body: B) -> http::Request<Body>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Send + 'static,
{
    http::Request::post(format!("http://localhost{GET}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(body))
        .unwrap()
}

fn head(length: usize) -> Bytes {
    let mut head = BytesMut::new();
    head.put_u8(0);
    head.put_u32(u32::try_from(length).unwrap());
    head.freeze()
}

async fn send(client: &Raw, request: http::Request<Body>) -> Status {
    let answer = client.sender.clone().send_request(request).await.unwrap();
    match Status::from_header_map(answer.headers()) {
        Some(status) => status,
        None => {
            let body = answer.into_body().collect().await.unwrap();
            Status::from_header_map(body.trailers().unwrap()).unwrap()
        }
    }
}

/// Begins so many requests that hang, all of which the server has seen in the end.
async fn hang(edge: &Edge, clients: &[&Raw], each: usize) -> JoinSet<hyper::Result<()>> {
    let mut calls = JoinSet::new();
    for client in clients {
        for _ in 0..each {
            let mut sender = client.sender.clone();
            let call = sender.send_request(unfinished(vec![head(9)]));
            calls.spawn(async { call.await.map(drop) });
        }
    }
    let active = format!(" {}", clients.len() * each);
    edge.measured(&["howdah_rpc_active", &active]).await;
    calls
}

async fn wait(client: &Raw) -> Result<Response<Operation>, Status> {
    OperationsClient::with_origin(client.channel(), Raw::origin())
        .wait_operation(WaitOperationRequest::default())
        .await
}

/// A stream that has begun.
async fn subscribe(client: &Raw) -> Result<Streaming<ChangeBatch>, Status> {
    let mut streams = client.streams();
    let asked = streams.subscribe(SubscribeRequest::default()).await?;
    let mut stream = asked.into_inner();
    stream.message().await?.unwrap();
    Ok(stream)
}

async fn watch(client: &Raw) -> Result<Streaming<tonic_health::pb::HealthCheckResponse>, Status> {
    let mut health = HealthClient::with_origin(client.channel(), Raw::origin());
    let asked = health.watch(HealthCheckRequest::default()).await?;
    Ok(asked.into_inner())
}

async fn check(client: &Raw) {
    HealthClient::with_origin(client.channel(), Raw::origin())
        .check(HealthCheckRequest::default())
        .await
        .expect("health is answered");
}

#[track_caller]
fn is_over_budget(status: &Status, limit: &str, most: usize) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(status::reason(status), Some(Reason::BudgetExhausted));
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.metadata["limit"], limit);
    assert_eq!(info.metadata["most"], most.to_string());
    assert!(status.get_details_retry_info().is_some());
}

#[tokio::test]
async fn half_sent_requests_hold_no_call_permit() {
    let edge = Edge::start(with(Permits {
        calls: Limit::of(50),
        ..Permits::default()
    }))
    .await;
    let attackers = join_all((0..4).map(|_| edge.connect())).await;
    let _calls = hang(&edge, &attackers.iter().collect::<Vec<_>>(), 20).await;
    answered(&edge.connect().await).await;
    answered(&attackers[0]).await;
}

#[tokio::test]
async fn a_request_that_does_not_arrive_in_time_is_ended() {
    let edge = Edge::start(Setup {
        limits: Limits {
            deadlines: Caps {
                request: Duration::from_millis(50),
                ..Caps::default()
            },
            permits: Permits {
                unfinished_bytes: 4 * LEAST,
                ..Permits::default()
            },
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let client = edge.connect().await;
    // A quarter is for one connection: each has given its bytes back before the next.
    for frames in [
        vec![],
        vec![head(9)],
        vec![head(2), Bytes::from_static(b"\x0a\x00")],
    ] {
        let status = timeout(BOUND, send(&client, unfinished(frames)))
            .await
            .unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status::reason(&status), Some(Reason::RequestIncomplete));
    }
    // A call that has arrived has as long as it takes.
    let mut databases = client.databases();
    let call = databases.get_database(named("hang"));
    timeout(Duration::from_millis(200), call).await.unwrap_err();
}

#[tokio::test]
async fn bytes_on_their_way_are_bounded_for_connections_callers_and_all() {
    let edge = Edge::start(with(Permits {
        unfinished_bytes: 16 * LEAST,
        ..Permits::default()
    }))
    .await;
    let clients = [edge.connect().await, edge.connect().await];
    let calls = hang(&edge, &[&clients[0], &clients[1]], 4).await;
    let status = send(&clients[0], unfinished(vec![head(9)])).await;
    is_over_budget(&status, "unfinished_bytes", 4 * LEAST);
    let status = send(&edge.connect().await, unfinished(vec![])).await;
    is_over_budget(&status, "unfinished_bytes", 8 * LEAST);
    let others = [
        edge.connect_from(OTHER).await,
        edge.connect_from(OTHER).await,
    ];
    let more = calls.len() + 8;
    let mut theirs = JoinSet::new();
    for other in &others {
        for _ in 0..4 {
            let mut sender = other.sender.clone();
            let call = sender.send_request(unfinished(vec![]));
            theirs.spawn(async { call.await.map(drop) });
        }
    }
    edge.measured(&["howdah_rpc_active", &format!(" {more}")])
        .await;
    let third = edge.connect_from(THIRD).await;
    let status = send(&third, unfinished(vec![])).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status::reason(&status), Some(Reason::Overloaded));
    // A probe may arrive in two parts, and is answered.
    let late = stream::once(tokio::time::sleep(Duration::from_millis(50)))
        .map(|()| Ok::<_, Status>(Frame::data(head(0))));
    let mut probe = request(StreamBody::new(late));
    *probe.uri_mut() = format!("http://localhost{CHECK}").parse().unwrap();
    assert_eq!(send(&third, probe).await.code(), Code::Ok);
    for scope in ["connection", "caller", "process"] {
        let scope = format!("howdah_scope=\"{scope}\"");
        let limit = "howdah_limit=\"unfinished_bytes\"";
        edge.measured(&["howdah_refusals_total", &scope, limit, " 1"])
            .await;
    }
    drop((clients, others, calls, theirs));
    edge.measured(&["howdah_rpc_active", " 0"]).await;
    let _again = hang(&edge, &[&third], 4).await;
}

/// Streams last, and are no reason to refuse requests that arrive within seconds.
#[tokio::test]
async fn open_streams_leave_room_for_requests() {
    const WINDOW: usize = 256 * 1024;
    let edge = Edge::start(with(Permits {
        unfinished_bytes: 4 * WINDOW,
        ..Permits::default()
    }))
    .await;
    let clients = [
        edge.connect().await,
        edge.connect().await,
        edge.connect_from(OTHER).await,
        edge.connect_from(OTHER).await,
    ];
    let mut streams = JoinSet::new();
    let reflect = || {
        let mut stream = unfinished(vec![]);
        *stream.uri_mut() = format!("http://localhost{REFLECT}").parse().unwrap();
        stream
    };
    for client in &clients {
        let mut sender = client.sender.clone();
        streams.spawn(async move { sender.send_request(reflect()).await });
    }
    edge.measured(&["howdah_rpc_active", " 4"]).await;
    let third = edge.connect_from(THIRD).await;
    let status = send(&third, reflect()).await;
    assert_eq!(status::reason(&status), Some(Reason::Overloaded));
    let message = named("shop").encode_to_vec();
    let parts = [head(message.len()), Bytes::from(message)];
    let parts = stream::iter(parts).then(|data| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok::<_, Status>(Frame::data(data))
    });
    let status = send(&third, request(StreamBody::new(Box::pin(parts)))).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
}

#[tokio::test]
async fn long_requests_count_with_their_bytes_and_are_put_together() {
    let edge = Edge::start(with(Permits {
        unfinished_bytes: 64 * LEAST,
        ..Permits::default()
    }))
    .await;
    let client = edge.connect().await;
    let pieces = |length: usize| {
        let message = named(&"n".repeat(length)).encode_to_vec();
        let mut all = BytesMut::from(&head(message.len())[..]);
        all.extend_from_slice(&message);
        let all = all.freeze();
        let ends = (0..all.len()).step_by(1000);
        ends.map(|at| all.slice(at..all.len().min(at + 1000)))
            .collect::<Vec<_>>()
    };
    let frames = stream::iter(pieces(100_000)).then(|data| async {
        tokio::task::yield_now().await;
        Ok::<_, Status>(Frame::data(data))
    });
    let status = send(&client, request(StreamBody::new(Box::pin(frames)))).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    let status = send(&client, unfinished(pieces(200_000))).await;
    is_over_budget(&status, "unfinished_bytes", 16 * LEAST);
    // Refused when its length is known.
    let status = send(&client, unfinished(vec![head(5 << 20)])).await;
    assert_eq!(status::reason(&status), Some(Reason::MessageTooLarge));
    answered(&client).await;
}

#[tokio::test]
async fn calls_of_one_caller_leave_room_for_others() {
    let edge = Edge::start(with(Permits {
        calls: Limit::of(3),
        ..Permits::default()
    }))
    .await;
    let (client, more) = (edge.connect().await, edge.connect().await);
    let mut calls = JoinSet::new();
    for client in [&client, &more] {
        let mut databases = client.databases();
        calls.spawn(async move { databases.get_database(named("hang")).await });
    }
    edge.measured(&["howdah_rpc_active", " 2"]).await;
    let status = more.databases().get_database(named("shop")).await;
    let status = status.unwrap_err();
    is_over_budget(&status, "calls", 2);
    let quota = status.get_details_quota_failure().unwrap();
    assert_eq!(quota.violations[0].subject, "anonymous@127.0.0.1");
    check(&client).await;
    let other = edge.connect_from(OTHER).await;
    answered(&other).await;
    let mut databases = other.databases();
    let mut theirs = JoinSet::new();
    theirs.spawn(async move { databases.get_database(named("hang")).await });
    edge.measured(&["howdah_rpc_active", " 3"]).await;
    let third = edge.connect_from(THIRD).await;
    let status = third.databases().get_database(named("shop")).await;
    let status = status.unwrap_err();
    assert_eq!(status::reason(&status), Some(Reason::Overloaded));
    drop((client, more, calls));
    edge.measured(&["howdah_rpc_active", " 1"]).await;
    answered(&edge.connect().await).await;
}

#[tokio::test]
async fn waits_hold_no_call_permit_and_have_bounds_of_their_own() {
    let edge = Edge::start(with(Permits {
        calls: Limit::of(1),
        waits: Limit::of(40),
        ..Permits::default()
    }))
    .await;
    let client = edge.connect().await;
    let waits = |client: &Raw| {
        let channel = client.channel();
        let calls = (0..20).map(move |_| {
            let mut operations = OperationsClient::with_origin(channel.clone(), Raw::origin());
            async move {
                operations
                    .wait_operation(WaitOperationRequest::default())
                    .await
            }
        });
        JoinSet::from_iter(calls)
    };
    let first = waits(&client);
    edge.measured(&["howdah_rpc_active", " 20"]).await;
    answered(&client).await;
    is_over_budget(&wait(&client).await.unwrap_err(), "waits", 20);
    let other = edge.connect_from(OTHER).await;
    let _second = waits(&other);
    edge.measured(&["howdah_rpc_active", " 40"]).await;
    let third = edge.connect_from(THIRD).await;
    let status = wait(&third).await.unwrap_err();
    assert_eq!(status::reason(&status), Some(Reason::Overloaded));
    answered(&third).await;
    drop((first, client));
    edge.measured(&["howdah_rpc_active", " 20"]).await;
    timeout(Duration::from_millis(50), wait(&third))
        .await
        .unwrap_err();
}

#[tokio::test]
async fn streams_of_one_caller_leave_room_for_others() {
    let edge = Edge::start(with(Permits {
        calls: Limit::of(1),
        streams: Limit::of(4),
        ..Permits::default()
    }))
    .await;
    let client = edge.connect().await;
    let mut open = vec![
        subscribe(&client).await.unwrap(),
        subscribe(&client).await.unwrap(),
    ];
    is_over_budget(&subscribe(&client).await.unwrap_err(), "streams", 2);
    let other = edge.connect_from(OTHER).await;
    let _theirs = [
        subscribe(&other).await.unwrap(),
        subscribe(&other).await.unwrap(),
    ];
    let third = edge.connect_from(THIRD).await;
    let status = subscribe(&third).await.unwrap_err();
    assert_eq!(status::reason(&status), Some(Reason::StreamsExhausted));
    assert!(status.get_details_retry_info().is_some());
    answered(&client).await;
    // One that ends makes room.
    drop(open.pop());
    edge.measured(&["howdah_rpc_active", " 3"]).await;
    subscribe(&client).await.unwrap();
}

#[tokio::test]
async fn streams_of_health_are_bounded_and_checks_pass() {
    let edge = Edge::start(with(Permits {
        probes: Limit::of(4),
        ..Permits::default()
    }))
    .await;
    let client = edge.connect().await;
    let _open = join_all([watch(&client), watch(&client)]).await;
    is_over_budget(&watch(&client).await.unwrap_err(), "probes", 2);
    check(&client).await;
    let other = edge.connect_from(OTHER).await;
    watch(&other).await.unwrap();
}

#[tokio::test]
async fn callers_behind_a_proxy_are_not_counted_as_one() {
    let mut setup = with(Permits {
        streams: Limit::of(4),
        ..Permits::default()
    });
    setup.settings.proxies = vec!["127.0.0.1/32".parse().unwrap()];
    setup.settings.max_connections_per_address = 1;
    setup.limits.rate = 1;
    let edge = Edge::start(setup).await;
    let (one, two) = (edge.connect().await, edge.connect().await);
    let open = join_all([&one, &one, &two, &two].map(subscribe)).await;
    assert!(open.iter().all(Result::is_ok));
    let status = subscribe(&one).await.unwrap_err();
    assert_eq!(status::reason(&status), Some(Reason::StreamsExhausted));
}

#[tokio::test]
async fn each_address_has_a_rate_of_its_own() {
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
    let mut refused = 0;
    for _ in 0..4 {
        let answer = client.databases().get_database(named("shop")).await;
        refused += usize::from(answer.is_err());
    }
    assert!(refused > 0);
    answered(&edge.connect_from(OTHER).await).await;
}

#[tokio::test]
async fn connections_of_one_address_leave_room_for_others() {
    let edge = Edge::start(Setup {
        settings: Settings {
            max_connections: 3,
            max_connections_per_address: 2,
            ..Settings::default()
        },
        ..Setup::default()
    })
    .await;
    let silent = TcpStream::connect(edge.port()).await.unwrap();
    let client = edge.connect().await;
    answered(&client).await;
    let mut over = TcpStream::connect(edge.port()).await.unwrap();
    let read = timeout(BOUND, over.read(&mut [0]))
        .await
        .expect("it is closed");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let address = "howdah_scope=\"address\"";
    let connections = "howdah_limit=\"connections\"";
    edge.measured(&["howdah_refusals_total", address, connections, " 1"])
        .await;
    answered(&edge.connect_from(OTHER).await).await;
    answered(&client).await;
    drop(silent);
    edge.measured(&["howdah_connections_open", " 1"]).await;
    answered(&edge.connect().await).await;
}

/// Clients that begin a handshake and say no more. Those that finish theirs are let in beside
/// them, from the same address.
#[tokio::test]
async fn unfinished_handshakes_leave_room_at_their_own_address() {
    let edge = Edge::start(Setup {
        settings: Settings {
            max_connections_per_address: 8,
            // Longer than the test.
            handshake_timeout: 10 * BOUND,
            ..Settings::default()
        },
        ..Setup::default()
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(edge.port()).await.unwrap();
        stream.write_all(b"PRI *").await.unwrap();
        silent.push(stream);
    }
    // The oldest two have given way.
    for stream in &mut silent[..2] {
        let read = timeout(BOUND, stream.read(&mut [0])).await;
        assert!(matches!(read.expect("it is closed"), Ok(0) | Err(_)));
    }
    let clients = [edge.connect().await, edge.connect().await];
    for client in &clients {
        answered(client).await;
    }
    // A connection that is established gives way to nobody.
    for _ in 0..8 {
        silent.push(TcpStream::connect(edge.port()).await.unwrap());
    }
    for client in &clients {
        answered(client).await;
    }
}
