//! Connections: how many, how long, and how they end.

use std::time::{Duration, Instant};

use futures::FutureExt as _;
use howdah::{
    api::{
        listener::{BindAddress, Listener, Settings},
        status,
    },
    domain::Reason,
    pb::v1::{GetDatabaseRequest, SubscribeRequest},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    frames::{self, Framed},
    harness::{BOUND, Edge, Raw, Setup},
};

fn named(name: &str) -> GetDatabaseRequest {
    GetDatabaseRequest {
        name: name.to_owned(),
    }
}

fn with(settings: Settings) -> Setup {
    Setup {
        settings,
        ..Setup::default()
    }
}

/// Waits until the other side has closed the connection.
async fn closed(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    timeout(BOUND, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection is closed")
        .ok();
}

#[tokio::test]
async fn connection_over_the_cap_is_closed() {
    let edge = Edge::start(with(Settings {
        max_connections: 1,
        ..Settings::default()
    }))
    .await;
    let first = edge.connect().await;
    first.databases().get_database(named("shop")).await.unwrap();
    let mut second = TcpStream::connect(edge.port()).await.unwrap();
    closed(&mut second).await;
    first.databases().get_database(named("shop")).await.unwrap();
    drop(first);
    edge.measured(&["howdah_connections_open", " 0"]).await;
    let third = edge.connect().await;
    third.databases().get_database(named("shop")).await.unwrap();
}

#[tokio::test]
async fn silent_connection_is_closed() {
    let edge = Edge::start(with(Settings {
        handshake_timeout: Duration::from_millis(50),
        ..Settings::default()
    }))
    .await;
    let mut silent = TcpStream::connect(edge.port()).await.unwrap();
    closed(&mut silent).await;
    edge.measured(&["howdah_connections_open", " 0"]).await;
}

#[tokio::test]
async fn http_1_is_closed() {
    let edge = Edge::start(Setup::default()).await;
    let mut stream = TcpStream::connect(edge.port()).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    closed(&mut stream).await;
}

/// A peer that is gone without a word: it greets, and answers no PING.
#[tokio::test]
async fn a_dead_peer_is_closed_after_a_ping() {
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];
    let edge = Edge::start(with(Settings {
        keepalive_interval: Duration::from_millis(50),
        keepalive_timeout: Duration::from_millis(50),
        max_concurrent_streams: 7,
        ..Settings::default()
    }))
    .await;
    let mut peer = TcpStream::connect(edge.port()).await.unwrap();
    let mut greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    greeting.extend([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]);
    peer.write_all(&greeting).await.unwrap();
    let mut bytes = Vec::new();
    let read = timeout(BOUND, peer.read_to_end(&mut bytes)).await;
    let _ = read.expect("the connection is closed");
    // RFC 9113, section 4.1: three bytes of length, the type, five bytes more.
    let (mut frames, mut rest) = (Vec::new(), &bytes[..]);
    while let [a, b, c, kind, _, _, _, _, _, more @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let (payload, next) = more.split_at(length.min(more.len()));
        frames.push((*kind, payload));
        rest = next;
    }
    let (first, settings) = frames[0];
    assert_eq!(first, SETTINGS);
    let streams = settings
        .chunks(6)
        .find(|setting| setting[..2] == MAX_CONCURRENT_STREAMS);
    assert_eq!(streams.unwrap()[2..], [0, 0, 0, 7]);
    assert!(frames.iter().any(|(kind, _)| *kind == PING), "{frames:?}");
    edge.measured(&["howdah_connections_open", " 0"]).await;
}

#[tokio::test]
async fn drain_sends_goaway_and_lets_calls_end() {
    let mut edge = Edge::start(Setup::default()).await;
    let mut client = edge.connect().await;
    let request = SubscribeRequest::default();
    let mut stream = client
        .streams()
        .subscribe(request)
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().unwrap();
    edge.drain.cancel();
    timeout(BOUND, async {
        while !client.told_to_go() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("GOAWAY comes");
    edge.service.next.notify_one();
    stream.message().await.unwrap().unwrap();
    assert!(stream.message().await.unwrap().is_none());
    client.ended().await;
    edge.ended().await;
    TcpStream::connect(edge.port()).await.unwrap_err();
}

#[tokio::test]
async fn drain_is_bounded_whatever_a_stream_does() {
    let mut edge = Edge::start(with(Settings {
        drain_timeout: Duration::from_millis(100),
        ..Settings::default()
    }))
    .await;
    let mut client = edge.connect().await;
    let request = SubscribeRequest::default();
    let mut stream = client
        .streams()
        .subscribe(request)
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().unwrap();
    let mut silent = TcpStream::connect(edge.port()).await.unwrap();
    let begun = Instant::now();
    edge.drain.cancel();
    edge.ended().await;
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert!(client.told_to_go());
    let dropped = edge.service.dropped.notified().now_or_never();
    dropped.expect("the handler was dropped before the listener ended");
    stream.message().await.unwrap_err();
    client.ended().await;
    closed(&mut silent).await;
}

/// Clients that do not answer the GOAWAY, as one that hangs or is gone.
#[tokio::test]
async fn drain_does_not_wait_for_clients_without_calls() {
    let mut edge = Edge::start(with(Settings {
        drain_timeout: 10 * BOUND,
        farewell: Duration::from_millis(50),
        ..Settings::default()
    }))
    .await;
    let mut idle = Framed::connect(edge.port(), 65_535).await;
    let mut called = Framed::connect(edge.port(), 65_535).await;
    let get = "/howdah.v1.DatabaseService/GetDatabase";
    called.write(&frames::call(1, get, &[0; 5])).await;
    for client in [&mut idle, &mut called] {
        client.ping().await.unwrap();
    }
    let busy = edge.connect().await;
    let request = SubscribeRequest::default();
    let asked = busy.streams().subscribe(request).await;
    let mut stream = asked.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    edge.drain.cancel();
    edge.measured(&["howdah_connections_open", " 1"]).await;
    // What is under way is waited for.
    edge.service.next.notify_one();
    stream.message().await.unwrap().unwrap();
    assert!(stream.message().await.unwrap().is_none());
    edge.ended().await;
}

#[tokio::test]
async fn old_connection_is_told_to_go() {
    let edge = Edge::start(with(Settings {
        max_age: Some(Duration::from_millis(50)),
        ..Settings::default()
    }))
    .await;
    let mut client = edge.connect().await;
    client.ended().await;
    assert!(client.told_to_go());
    let next = edge.connect().await;
    next.databases().get_database(named("shop")).await.unwrap();
}

#[tokio::test]
async fn grace_of_an_old_connection_ends() {
    let edge = Edge::start(with(Settings {
        max_age: Some(Duration::from_millis(50)),
        age_grace: Some(Duration::from_millis(50)),
        ..Settings::default()
    }))
    .await;
    let mut client = edge.connect().await;
    client
        .databases()
        .get_database(named("hang"))
        .await
        .unwrap_err();
    assert!(client.told_to_go());
    client.ended().await;
}

/// A subscription that has always a next batch, and one that has none.
#[tokio::test]
async fn a_stream_ends_with_a_reason_when_its_connection_is_too_old() {
    let edge = Edge::start(with(Settings {
        max_age: Some(Duration::from_millis(50)),
        age_grace: Some(Duration::from_millis(50)),
        ..Settings::default()
    }))
    .await;
    for database in ["", "endless"] {
        let client = edge.connect().await;
        let request = SubscribeRequest {
            database: database.to_owned(),
            ..Default::default()
        };
        let asked = client.streams().subscribe(request).await;
        let mut stream = asked.unwrap().into_inner();
        let last = async {
            loop {
                match stream.message().await {
                    Ok(batch) => assert!(batch.is_some(), "a status comes"),
                    Err(status) => return status,
                }
            }
        };
        let status = timeout(BOUND, last).await.expect("it ends");
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(status::reason(&status), Some(Reason::ConnectionEnding));
        assert!(client.told_to_go());
    }
}

#[tokio::test]
async fn dropping_the_listener_cuts_off_connections() {
    let edge = Edge::start(Setup::default()).await;
    let mut client = edge.connect().await;
    client
        .databases()
        .get_database(named("shop"))
        .await
        .unwrap();
    drop(edge);
    client.ended().await;
}

#[tokio::test]
async fn unix_socket_of_a_dead_process_is_replaced_and_of_a_live_one_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api");
    let address = BindAddress::Unix(path.clone());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let edge = Edge::start(Setup {
        address: address.clone(),
        ..Setup::default()
    })
    .await;
    let meter = edge.metrics.meter();
    Listener::bind(&address, Settings::default(), &meter)
        .await
        .unwrap_err();
    let client = Raw::over(UnixStream::connect(&path).await.unwrap()).await;
    client
        .databases()
        .get_database(named("shop"))
        .await
        .unwrap();

    let file = directory.path().join("file");
    std::fs::write(&file, "data").unwrap();
    let address = BindAddress::Unix(file.clone());
    Listener::bind(&address, Settings::default(), &meter)
        .await
        .unwrap_err();
    assert_eq!(std::fs::read(&file).unwrap(), b"data");
}
