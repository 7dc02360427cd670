//! Compressed messages.

use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use howdah::{
    api::{server::Limits, status},
    domain::Reason,
    pb::v1::GetDatabaseRequest,
};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tonic::{Code, Status, body::Body, codec::CompressionEncoding};

use super::harness::{Edge, Raw, Setup};

const GET: &str = "/howdah.v1.DatabaseService/GetDatabase";

async fn answer(client: &Raw, encoding: &str, message: &[u8]) -> http::HeaderMap {
    let mut framed = BytesMut::new();
    framed.put_u8(1);
    framed.put_u32(message.len().try_into().unwrap());
    framed.extend_from_slice(message);
    let request = http::Request::post(format!("http://localhost{GET}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-encoding", encoding)
        .body(Body::new(Full::new(framed.freeze())))
        .unwrap();
    let answer = client.sender.clone().send_request(request).await.unwrap();
    let mut headers = answer.headers().clone();
    let body = answer.into_body().collect().await.unwrap();
    headers.extend(body.trailers().cloned().unwrap_or_default());
    headers
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    zstd::encode_all(plain, 1).unwrap()
}

#[tokio::test]
async fn clients_may_compress_with_gzip_and_zstd() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut databases = client.databases().send_compressed(encoding);
        for name in ["shop".to_owned(), "shop".repeat(1000)] {
            let request = GetDatabaseRequest { name: name.clone() };
            let found = databases.get_database(request).await.unwrap();
            assert_eq!(found.into_inner().name, name);
        }
    }
}

#[tokio::test]
async fn a_bomb_is_refused_for_what_it_is() {
    let edge = Edge::start(Setup {
        limits: Limits {
            message_bytes: 1 << 20,
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let client = edge.connect().await;
    let bomb = GetDatabaseRequest {
        name: "b".repeat(64 << 20),
    }
    .encode_to_vec();
    for (encoding, message) in [("gzip", gzip(&bomb)), ("zstd", zstd(&bomb))] {
        assert!(message.len() < 1 << 20, "{encoding}: {}", message.len());
        let headers = answer(&client, encoding, &message).await;
        let status = Status::from_header_map(&headers).unwrap();
        assert_eq!(status::reason(&status), Some(Reason::MessageTooLarge));
        let headers = answer(&client, encoding, b"none of these").await;
        let status = Status::from_header_map(&headers).unwrap();
        assert_eq!(status::reason(&status), Some(Reason::MessageUndecodable));
    }
}

#[tokio::test]
async fn another_encoding_is_refused_with_those_that_there_are() {
    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let headers = answer(&client, "snappy", &Bytes::from_static(b"x")).await;
    let status = Status::from_header_map(&headers).unwrap();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(headers["grpc-accept-encoding"], "gzip,zstd,identity");
}
