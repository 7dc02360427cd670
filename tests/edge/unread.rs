//! Answers that clients do not read hold a bounded memory, for a bounded time.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use howdah::{
    api::{
        listener::Settings,
        server::{Limits, Permits},
        status,
    },
    domain::Reason,
    pb::v1::{Database, GetDatabaseRequest, SubscribeRequest},
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::{net::TcpStream, time::timeout};
use tonic::{Code, Response, Status, body::Body};
use tonic_types::StatusExt as _;

use super::{
    frames::{self, Framed},
    harness::{BOUND, Edge, Raw, Setup},
};

const GET: &str = "/howdah.v1.DatabaseService/GetDatabase";

/// Soon, but long for an answer that is read.
const SOON: Duration = Duration::from_millis(200);

fn impatient() -> Setup {
    Setup {
        settings: Settings {
            write_timeout: SOON,
            stream_write_timeout: SOON,
            ..Settings::default()
        },
        ..Setup::default()
    }
}

/// A client that lets so many bytes of each answer come.
async fn with_window(edge: &Edge, window: u32) -> Raw {
    let stream = TcpStream::connect(edge.port()).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    Raw::of(sender, connection)
}

fn named(name: &str) -> GetDatabaseRequest {
    GetDatabaseRequest { name: name.into() }
}

/// An answer that has begun, and whose body nobody reads.
async fn begun(client: &Raw, length: usize) -> http::Response<Incoming> {
    let request = http::Request::post(format!("http://localhost{GET}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Full::new(message(length))))
        .unwrap();
    let answer = client.sender.clone().send_request(request);
    timeout(BOUND, answer).await.expect("a head").unwrap()
}

/// A request for an answer of so many bytes.
fn message(length: usize) -> Bytes {
    let message = named(&format!("large-{length}")).encode_to_vec();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len().try_into().unwrap());
    framed.extend_from_slice(&message);
    framed.freeze()
}

async fn get(client: &Raw, name: &str) -> Result<Response<Database>, Status> {
    let mut databases = client.databases();
    let asked = databases.get_database(named(name));
    timeout(BOUND, asked).await.expect("an answer")
}

#[tokio::test]
async fn an_answer_that_is_not_read_is_reset_after_a_while() {
    let edge = Edge::start(impatient()).await;
    let (mut clients, mut answers) = (Vec::new(), Vec::new());
    for window in [0, 1, 65_535] {
        let client = with_window(&edge, window).await;
        // A little more than the window, and very much more.
        for length in [65_540, 3 << 20] {
            answers.push(begun(&client, length).await);
        }
        clients.push(client);
    }
    edge.measured(&["howdah_refusals_total", "unread_time", " 6"])
        .await;
    edge.measured(&["howdah_rpc_active", " 0"]).await;
    for answer in answers {
        let read = timeout(BOUND, answer.into_body().collect()).await;
        read.expect("an end").expect_err("the call was reset");
    }
    // Other calls of such a connection go on.
    get(&clients[2], "shop").await.unwrap();
    edge.measured(&["howdah_connections_open", " 3"]).await;
}

/// As long as it is read, however slowly, an answer goes on.
#[tokio::test]
async fn an_answer_that_is_read_slowly_comes_as_a_whole() {
    let edge = Edge::start(impatient()).await;
    let client = with_window(&edge, 65_535).await;
    let mut body = begun(&client, 400_000).await.into_body();
    let (mut length, mut trailers) = (0, None);
    while let Some(frame) = timeout(BOUND, body.frame()).await.unwrap() {
        match frame.unwrap().into_data() {
            Ok(data) => length += data.len(),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        tokio::time::sleep(SOON / 40).await;
    }
    assert!(length > 400_000, "{length}");
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn a_stream_that_is_not_read_is_reset_and_a_silent_one_is_not() {
    let edge = Edge::start(impatient()).await;
    let reader = edge.connect().await;
    let request = SubscribeRequest::default();
    let asked = reader.streams().subscribe(request.clone()).await;
    let mut silent = asked.unwrap().into_inner();
    silent.message().await.unwrap().unwrap();
    let client = with_window(&edge, 0).await;
    let asked = client.streams().subscribe(request).await;
    let mut unread = asked.unwrap().into_inner();
    // Its first batch does not fit the window: nothing comes but the reset.
    let ended = timeout(BOUND, unread.message()).await.expect("an end");
    ended.unwrap_err();
    edge.measured(&["howdah_refusals_total", "unread_time", " 1"])
        .await;
    edge.service.next.notify_one();
    silent.message().await.unwrap().unwrap();
}

#[tokio::test]
async fn bytes_that_are_not_read_are_bounded_for_a_connection_and_a_caller() {
    const ANSWER: usize = 100_000;
    let edge = Edge::start(Setup {
        limits: Limits {
            permits: Permits {
                // Room for two answers of a connection, four of a caller, eight of all.
                unread_bytes: 9 * ANSWER,
                ..Permits::default()
            },
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let over_budget = |status: &Status| {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert_eq!(status::reason(status), Some(Reason::BudgetExhausted));
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata["limit"], "unread_bytes");
        assert!(status.get_details_retry_info().is_some());
    };
    let name = format!("large-{ANSWER}");
    let clients = [with_window(&edge, 0).await, with_window(&edge, 1).await];
    let mut held = Vec::new();
    for client in &clients {
        held.push(begun(client, ANSWER).await);
        held.push(begun(client, ANSWER).await);
        over_budget(&get(client, &name).await.unwrap_err());
    }
    let third = edge.connect().await;
    over_budget(&get(&third, &name).await.unwrap_err());
    // Small answers, and those of others, come as ever.
    get(&third, "shop").await.unwrap();
    let other = edge.connect_from([127, 0, 0, 2]).await;
    get(&other, &name).await.unwrap();
    for scope in ["connection", "caller"] {
        let scope = format!("howdah_scope=\"{scope}\"");
        edge.measured(&["howdah_refusals_total", "unread_bytes", &scope])
            .await;
    }
    drop((clients, held));
    edge.measured(&["howdah_rpc_active", " 0"]).await;
    get(&third, &name).await.unwrap();
}

/// Windows without end, and a socket that nobody reads.
#[tokio::test]
async fn a_connection_whose_socket_is_not_read_is_closed() {
    let edge = Edge::start(impatient()).await;
    let mut client = Framed::connect(edge.port(), (1 << 31) - 1).await;
    client.open_window().await;
    let request = message(1 << 20);
    for stream in (1..=101).step_by(2) {
        client.write(&frames::call(stream, GET, &request)).await;
    }
    edge.measured(&["howdah_connections_open", " 1"]).await;
    edge.measured(&["howdah_connections_open", " 0"]).await;
    edge.measured(&["howdah_rpc_active", " 0"]).await;
}
