//! What becomes of single calls.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use howdah::{
    api::{
        server::{Caps, Limits},
        status,
    },
    domain::Reason,
    pb::v1::{Database, GetDatabaseRequest, SubscribeRequest},
};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio::time::timeout;
use tonic::{Status, body::Body};

use super::harness::{BOUND, Edge, Raw, Setup};

const GET: &str = "/howdah.v1.DatabaseService/GetDatabase";

fn named(name: &str) -> GetDatabaseRequest {
    GetDatabaseRequest {
        name: name.to_owned(),
    }
}

/// One message in gRPC's framing.
fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

async fn post(client: &Raw, path: &str, timeout: Option<&str>, body: Bytes) -> Status {
    let mut request = http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let request = request.body(Body::new(Full::new(body))).unwrap();
    let response = client.sender.clone().send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    assert_eq!(parts.status, http::StatusCode::OK);
    if let Some(status) = Status::from_header_map(&parts.headers) {
        return status;
    }
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap();
    Status::from_header_map(&trailers).unwrap()
}

#[track_caller]
fn assert_is(status: &Status, reason: Reason) {
    assert_eq!(status.code(), status::code(reason.kind()), "{status:?}");
    assert_eq!(status::reason(status), Some(reason), "{status:?}");
}

#[tokio::test]
async fn good_call_is_answered_and_counted() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let answer = client
        .databases()
        .get_database(named("shop"))
        .await
        .unwrap();
    assert_eq!(answer.into_inner().owner, "anonymous");
    edge.measured(&[
        "rpc_server_call_duration_seconds_count",
        "rpc_method=\"howdah.v1.DatabaseService/GetDatabase\"",
        "rpc_response_status_code=\"OK\"",
        "rpc_system_name=\"grpc\"",
    ])
    .await;
}

#[tokio::test]
async fn callers_timeout_is_deadline_exceeded() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let body = frame(&named("hang").encode_to_vec());
    let status = post(&client, GET, Some("50m"), body).await;
    assert_is(&status, Reason::DeadlineExceeded);
    timeout(BOUND, edge.service.dropped.notified())
        .await
        .expect("the handler is dropped");
}

#[tokio::test]
async fn cap_ends_unary_calls_but_no_streams() {
    let usual = Duration::from_millis(50);
    let edge = Edge::start(Setup {
        limits: Limits {
            deadlines: Caps {
                usual,
                ..Caps::default()
            },
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let client = edge.connect().await;
    let request = SubscribeRequest::default();
    let mut stream = client
        .streams()
        .subscribe(request)
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().unwrap();
    // The stream is older than this call, which lasts the whole cap.
    let body = frame(&named("hang").encode_to_vec());
    let status = post(&client, GET, Some("1H"), body).await;
    assert_is(&status, Reason::DeadlineExceeded);
    edge.service.next.notify_one();
    stream.message().await.unwrap().unwrap();
    assert!(stream.message().await.unwrap().is_none());
}

#[tokio::test]
async fn five_mebibytes_are_too_large() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let body = frame(&named(&"n".repeat(5 * 1024 * 1024)).encode_to_vec());
    let status = post(&client, GET, None, body).await;
    assert_is(&status, Reason::MessageTooLarge);
}

#[tokio::test]
async fn bad_bytes_are_undecodable() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let invalid_utf8 = frame(&[0x0a, 2, 0xc3, 0x28]);
    let no_message = frame(&[0xff; 16]);
    let cut_off = frame(&named("shop").encode_to_vec()).slice(..6);
    let compressed = Bytes::from_static(&[1, 0, 0, 0, 0]);
    for body in [invalid_utf8, no_message, cut_off, compressed] {
        let status = post(&client, GET, None, body).await;
        assert_is(&status, Reason::MessageUndecodable);
    }
}

/// For unary methods and those that stream their answer. Cut-off bytes are another error.
#[tokio::test]
async fn a_request_is_one_message() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let one = frame(&named("shop").encode_to_vec());
    let two = [&one[..], &one[..]].concat();
    let behind = [&one[..], &[0]].concat();
    for path in [GET, "/howdah.v1.ChangeStreamService/Subscribe"] {
        for body in [Vec::new(), two.clone(), behind.clone()] {
            let status = post(&client, path, None, body.into()).await;
            assert_is(&status, Reason::MessageCountInvalid);
            assert_eq!(status.code(), tonic::Code::Unimplemented);
        }
    }
}

/// Of the size that is refused, and of one that the library answers by itself.
#[tokio::test]
async fn large_headers_are_refused_with_a_status() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let send = async |length: usize| {
        let request = http::Request::builder()
            .method("POST")
            .uri(format!("http://localhost{GET}"))
            .header("content-type", "application/grpc")
            .header("baggage", "b".repeat(length))
            .body(Body::new(Full::new(frame(&named("shop").encode_to_vec()))))
            .unwrap();
        client.sender.clone().send_request(request).await.unwrap()
    };
    let response = send(15 * 1024).await;
    assert_eq!(response.status(), 200);
    assert!(Status::from_header_map(response.headers()).is_none());
    for length in [16 * 1024, 60 * 1024] {
        let response = send(length).await;
        assert_eq!(response.status(), 200);
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_is(&status, Reason::HeadersTooLarge);
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    }
    assert_eq!(send(70 * 1024).await.status(), 431);
    // The connection goes on.
    assert_eq!(send(1).await.status(), 200);
}

/// What a browser sends for any page, with the user's client certificate, is none of these.
#[tokio::test]
async fn only_a_post_of_grpc_is_a_call() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let send = async |method: &str, content_type: Option<&str>| {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://localhost{GET}"));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let body = Full::new(frame(&named("shop").encode_to_vec()));
        let request = request.body(Body::new(body)).unwrap();
        client.sender.clone().send_request(request).await.unwrap()
    };
    for content_type in [
        None,
        Some("text/plain"),
        Some("multipart/form-data"),
        Some("application/x-www-form-urlencoded"),
        Some("application/json"),
        Some("application/grpc-web"),
        Some("application/grpcx"),
    ] {
        let response = send("POST", content_type).await;
        assert_eq!(response.status(), 415, "{content_type:?}");
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_is(&status, Reason::HttpRequestInvalid);
    }
    for method in ["GET", "PUT", "OPTIONS", "HEAD"] {
        let response = send(method, Some("application/grpc")).await;
        assert_eq!(response.status(), 405, "{method}");
        assert_eq!(response.headers()["allow"], "POST");
    }
    for content_type in ["application/grpc", "application/grpc+proto"] {
        let response = send("POST", Some(content_type)).await;
        assert_eq!(response.status(), 200, "{content_type}");
        assert!(!response.headers().contains_key("grpc-status"));
    }
}

/// A client that goes away in the middle of its request is no defect of the server.
#[tokio::test]
async fn request_that_is_broken_off_is_cancelled() {
    use http_body_util::StreamBody;

    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let (sender, parts) = tokio::sync::mpsc::unbounded_channel();
    let whole = frame(&named("shop").encode_to_vec());
    sender
        .send(Ok(http_body::Frame::data(whole.slice(..7))))
        .unwrap();
    let parts = tokio_stream::wrappers::UnboundedReceiverStream::new(parts);
    let request = http::Request::post(format!("http://localhost{GET}"))
        .header("content-type", "application/grpc")
        .body(Body::new(StreamBody::new(parts)))
        .unwrap();
    let mut sending = client.sender.clone();
    let answer = tokio::spawn(async move { sending.send_request(request).await });
    edge.measured(&["howdah_rpc_active", " 1"]).await;
    // The client's body fails: its stream is reset.
    sender.send(Err(Status::internal("gone"))).unwrap();
    edge.measured(&[
        "rpc_server_call_duration_seconds_count",
        "GetDatabase",
        "rpc_response_status_code=\"CANCELLED\"",
    ])
    .await;
    answer.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn unknown_methods_are_unimplemented() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    for path in ["/howdah.v1.DatabaseService/Nothing", "/no.Service/Get", "/"] {
        let status = post(&client, path, None, frame(&[])).await;
        assert_is(&status, Reason::Unimplemented);
    }
    edge.measured(&["rpc_method=\"_OTHER\"", "error_type=\"UNIMPLEMENTED\""])
        .await;
}

/// Known to the descriptors, but no service of that name is served here.
#[tokio::test]
async fn known_method_without_service_is_unimplemented() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let path = "/howdah.v1.InstanceService/GetInstance";
    let status = post(&client, path, None, frame(&[])).await;
    assert_is(&status, Reason::Unimplemented);
}

#[tokio::test]
async fn dropped_call_is_cancelled() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let mut databases = client.databases();
    let mut call = Box::pin(databases.get_database(named("hang")));
    let started = edge.measured(&["howdah_rpc_active", " 1"]);
    tokio::select! {
        answer = &mut call => panic!("{answer:?}"),
        () = started => {}
    }
    drop(call);
    timeout(BOUND, edge.service.dropped.notified())
        .await
        .expect("the handler is dropped");
    edge.measured(&[
        "rpc_server_call_duration_seconds_count",
        "GetDatabase",
        "rpc_response_status_code=\"CANCELLED\"",
    ])
    .await;
    edge.measured(&["howdah_rpc_active", " 0"]).await;
}

#[tokio::test]
async fn dropped_stream_is_cancelled() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let request = SubscribeRequest::default();
    let mut stream = client
        .streams()
        .subscribe(request)
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    edge.measured(&["Subscribe", "rpc_response_status_code=\"CANCELLED\""])
        .await;
}

#[tokio::test]
async fn answers_decode_as_what_was_asked_for() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let answer = client.databases().get_database(named("ä")).await.unwrap();
    let database: Database = answer.into_inner();
    assert_eq!(database.name, "ä");
}
