//! The proxy itself: each behaviour, in front of a server that sends back what it gets.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::support::proxy::Proxy;

/// Longer than anything takes that arrives at all.
const LIMIT: Duration = Duration::from_secs(10);

/// Long enough to see that nothing arrives.
const SILENCE: Duration = Duration::from_millis(300);

/// Sends back what it gets, behind `mark`, until it is dropped.
async fn echo(mark: u8) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let mut buffer = [mark; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer[1..]).await {
                    let answer = &buffer[..=length];
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, tasks)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    let connected = TcpStream::connect(("127.0.0.1", proxy.port)).await;
    connected.unwrap()
}

/// What comes next; `None` at the end of the connection.
async fn next(stream: &mut TcpStream) -> Option<String> {
    let mut buffer = [0; 64];
    let read = timeout(LIMIT, stream.read(&mut buffer)).await;
    let length = read.expect("something within the limit").ok()?;
    (length > 0).then(|| String::from_utf8_lossy(&buffer[..length]).into_owned())
}

async fn ask(stream: &mut TcpStream, text: &str) -> Option<String> {
    stream.write_all(text.as_bytes()).await.ok()?;
    next(stream).await
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 1];
    timeout(SILENCE, stream.peek(&mut buffer)).await.is_err()
}

#[tokio::test]
async fn passes_delays_and_switches() {
    let (one, _one) = echo(b'1').await;
    let (two, _two) = echo(b'2').await;
    let proxy = Proxy::new(one);
    let mut old = connect(&proxy).await;
    assert_eq!(ask(&mut old, "a").await.as_deref(), Some("1a"));
    proxy.upstream(two);
    assert_eq!(ask(&mut old, "b").await.as_deref(), Some("1b"));
    let mut new = connect(&proxy).await;
    assert_eq!(ask(&mut new, "c").await.as_deref(), Some("2c"));
    proxy.delay(SILENCE);
    let began = Instant::now();
    assert_eq!(ask(&mut old, "d").await.as_deref(), Some("1d"));
    assert!(began.elapsed() >= SILENCE * 2, "{:?}", began.elapsed());
    // An orderly end is passed on as one.
    new.shutdown().await.unwrap();
    let end = timeout(LIMIT, new.read(&mut [0; 1])).await.unwrap();
    assert_eq!(end.unwrap(), 0);
}

#[tokio::test]
async fn is_silent_and_loses_what_was_sent() {
    let (port, _server) = echo(b'1').await;
    let mut proxy = Proxy::new(port);
    let mut old = connect(&proxy).await;
    assert_eq!(ask(&mut old, "a").await.as_deref(), Some("1a"));
    proxy.lose();
    let mut new = connect(&proxy).await;
    for stream in [&mut old, &mut new] {
        stream.write_all(b"lost").await.unwrap();
        assert!(is_silent(stream).await);
    }
    proxy.pass();
    assert!(is_silent(&mut old).await);
    assert_eq!(ask(&mut old, "b").await.as_deref(), Some("1b"));
    new.write_all(b"c").await.unwrap();
    assert!(is_silent(&mut new).await, "nobody knows of it");
}

#[tokio::test]
async fn is_silent_and_delivers_late() {
    let (port, _server) = echo(b'1').await;
    let mut proxy = Proxy::new(port);
    let mut old = connect(&proxy).await;
    assert_eq!(ask(&mut old, "a").await.as_deref(), Some("1a"));
    proxy.hold();
    let mut new = connect(&proxy).await;
    for stream in [&mut old, &mut new] {
        stream.write_all(b"late").await.unwrap();
        assert!(is_silent(stream).await);
    }
    proxy.pass();
    assert_eq!(next(&mut old).await.as_deref(), Some("1late"));
    assert_eq!(next(&mut new).await.as_deref(), Some("1late"));
}

#[tokio::test]
async fn cuts_halves_and_refuses() {
    let (port, _server) = echo(b'1').await;
    let mut proxy = Proxy::new(port);
    let reset = async |stream: &mut TcpStream| {
        let read = timeout(LIMIT, stream.read(&mut [0; 64])).await.unwrap();
        assert_eq!(
            read.unwrap_err().kind(),
            std::io::ErrorKind::ConnectionReset
        );
    };
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, "a").await.as_deref(), Some("1a"));
    proxy.cut();
    reset(&mut stream).await;

    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, "abc").await.as_deref(), Some("1abc"));
    proxy.half(4);
    // Four bytes there, and four of the five that come back.
    stream.write_all(b"ab").await.unwrap();
    assert_eq!(next(&mut stream).await.as_deref(), Some("1ab"));
    stream.write_all(b"c").await.unwrap();
    let rest = next(&mut stream).await;
    assert!(rest.is_none_or(|rest| rest == "1"), "no more than four");
    proxy.pass();

    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, "a").await.as_deref(), Some("1a"));
    proxy.refuse().await;
    reset(&mut stream).await;
    let refused = TcpStream::connect(("127.0.0.1", proxy.port)).await;
    assert_eq!(
        refused.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    proxy.pass();
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, "a").await.as_deref(), Some("1a"));
}
