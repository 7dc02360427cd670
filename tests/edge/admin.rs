//! The admin listener.

use std::net::SocketAddr;

use howdah::telemetry::{
    admin::{Readiness, serve},
    metrics::Metrics,
};
use opentelemetry_sdk::Resource;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::harness::BOUND;

async fn ask(address: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Idle connections, and requests that never end, as many as there are seats and more.
#[tokio::test]
async fn idle_and_slow_connections_do_not_keep_a_probe_from_its_answer() {
    let metrics = Metrics::new(Resource::builder_empty().build(), None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    let stop = CancellationToken::new();
    let registry = metrics.registry().clone();
    tasks.spawn(serve(
        listener,
        registry,
        Readiness::default(),
        stop.clone(),
    ));
    let mut held = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"GET /healthz HT").await.unwrap();
        }
        held.push(stream);
    }
    let answer = timeout(BOUND, ask(address, "GET", "/healthz")).await;
    assert!(answer.expect("an answer").starts_with("HTTP/1.1 200"));
    // Who was longest idle has made room.
    let first = timeout(BOUND, held[1].read(&mut [0])).await;
    assert_eq!(first.expect("the end").unwrap_or(0), 0);
    stop.cancel();
    timeout(BOUND, tasks.join_next()).await.expect("it stops");
}

#[tokio::test]
async fn serves_metrics_and_probes_until_it_is_stopped() {
    let metrics = Metrics::new(Resource::builder_empty().build(), None).unwrap();
    metrics
        .meter()
        .u64_counter("test.events")
        .build()
        .add(3, &[]);
    let readiness = Readiness::default();
    let stop = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    let registry = metrics.registry().clone();
    tasks.spawn(serve(listener, registry, readiness.clone(), stop.clone()));

    let scrape = ask(address, "GET", "/metrics").await;
    assert!(
        scrape.contains("test_events_total") && scrape.contains("} 3\n"),
        "{scrape}"
    );
    assert!(
        ask(address, "GET", "/healthz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        ask(address, "GET", "/readyz")
            .await
            .starts_with("HTTP/1.1 503")
    );
    readiness.set(true);
    assert!(
        ask(address, "GET", "/readyz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(ask(address, "GET", "/").await.starts_with("HTTP/1.1 404"));
    assert!(
        ask(address, "POST", "/metrics")
            .await
            .starts_with("HTTP/1.1 405")
    );

    let mut idle = TcpStream::connect(address).await.unwrap();
    stop.cancel();
    timeout(BOUND, tasks.join_next())
        .await
        .expect("it stops")
        .unwrap()
        .unwrap();
    assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0);
}
