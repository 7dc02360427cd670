//! The admin listener.

use std::{net::SocketAddr, time::Duration};

use howdah::{
    accept::{BindAddress, Socket},
    admin::{Bounds, Pages, Readiness, serve},
    telemetry::metrics::Metrics,
};
use opentelemetry_sdk::Resource;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
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

/// The admin listener on a free port; ends when it is dropped.
struct Admin {
    address: SocketAddr,
    metrics: Metrics,
    readiness: Readiness,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Admin {
    async fn start(bounds: Bounds) -> Self {
        let metrics = Metrics::new(Resource::builder_empty().build(), None).unwrap();
        let any = BindAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let socket = Socket::bind(&any).await.unwrap();
        let BindAddress::Tcp(address) = *socket.address() else {
            panic!("no port")
        };
        let (readiness, stop) = (Readiness::default(), CancellationToken::new());
        let pages = Pages::new(metrics.registry().clone(), readiness.clone()).bounded(bounds);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(socket, pages, stop.clone()));
        Self {
            address,
            metrics,
            readiness,
            stop,
            tasks,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        let stopped = timeout(BOUND, self.tasks.join_next()).await;
        stopped.expect("it stops").unwrap().unwrap();
    }
}

/// No bound of time that a test waits for.
const LASTING: Bounds = Bounds {
    head: Duration::from_secs(3600),
    write: Duration::from_secs(3600),
    lifetime: Duration::from_secs(3600),
};

/// Waits until the other side has closed the connection.
async fn closed(stream: &mut TcpStream) {
    let ended = async { while !matches!(stream.read(&mut [0; 4096]).await, Ok(0) | Err(_)) {} };
    timeout(BOUND, ended).await.expect("it is closed");
}

/// Idle connections, and requests that never end, more than there are seats: only as many
/// as there are seats for one address stay open.
#[tokio::test]
async fn idle_and_slow_connections_do_not_keep_a_probe_from_its_answer() {
    const SEATS: usize = 32;
    let mut admin = Admin::start(LASTING).await;
    let mut held = Vec::new();
    for number in 0..200 {
        let mut stream = admin.connect().await;
        if number % 2 == 0 {
            stream.write_all(b"GET /healthz HT").await.unwrap();
        }
        held.push(stream);
    }
    let answer = timeout(BOUND, ask(admin.address, "GET", "/healthz")).await;
    assert!(answer.expect("an answer").starts_with("HTTP/1.1 200"));
    // Who was longest idle has made room.
    for stream in &mut held[..200 - SEATS] {
        closed(stream).await;
    }
    admin.stop().await;
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let head = Duration::from_millis(50);
    let admin = Admin::start(Bounds { head, ..LASTING }).await;
    let (mut idle, mut slow, mut once) =
        tokio::join!(admin.connect(), admin.connect(), admin.connect());
    slow.write_all(b"GET /healthz HT").await.unwrap();
    let whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    once.write_all(whole).await.unwrap();
    for stream in [&mut idle, &mut slow, &mut once] {
        closed(stream).await;
    }
}

/// A client that asks for much and reads nothing.
#[tokio::test]
async fn a_connection_that_reads_nothing_is_closed() {
    let write = Duration::from_millis(100);
    let admin = Admin::start(Bounds { write, ..LASTING }).await;
    let counter = admin.metrics.meter().u64_counter("test.events").build();
    for number in 0..1000 {
        counter.add(1, &[opentelemetry::KeyValue::new("number", number)]);
    }
    let mut stream = admin.connect().await;
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    let written = timeout(BOUND, async {
        while stream.write_all(&request).await.is_ok() {}
    });
    written.await.expect("it is closed");
}

#[tokio::test]
async fn a_connection_that_asks_again_and_again_is_closed_in_the_end() {
    let lifetime = Duration::from_millis(200);
    let admin = Admin::start(Bounds {
        lifetime,
        ..LASTING
    })
    .await;
    let mut stream = admin.connect().await;
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let asked = timeout(BOUND, async {
        let mut answer = [0; 4096];
        while stream.write_all(request).await.is_ok() {
            if matches!(stream.read(&mut answer).await, Ok(0) | Err(_)) {
                break;
            }
        }
    });
    asked.await.expect("it is closed");
}

#[tokio::test]
async fn serves_metrics_and_probes_until_it_is_stopped() {
    let mut admin = Admin::start(Bounds::default()).await;
    let address = admin.address;
    let counter = admin.metrics.meter().u64_counter("test.events").build();
    counter.add(3, &[]);

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
    admin.readiness.set(true);
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

    let mut idle = admin.connect().await;
    admin.stop().await;
    closed(&mut idle).await;
}
