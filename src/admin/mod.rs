//! The admin listener: metrics for Prometheus and probes for orchestrators. It speaks HTTP/1.1
//! without authentication, and is meant for loopback or for a cluster's internal network.
//!
//! - `GET /metrics`: all metrics in Prometheus' text format.
//! - `GET /healthz`: 200 while the process answers.
//! - `GET /readyz`: 200 while calls are served, otherwise 503.
//!
//! The [accept loop](crate::accept) serves it, like the API. A new connection is always
//! admitted, and the idlest one is closed for it. So idle and slow clients cannot prevent a
//! probe from being answered.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder as _, TextEncoder};
use tokio_util::sync::CancellationToken;

use crate::{
    accept::{self, Accepted, Conversation, Seat, Seats, Socket, Tasks, Writing},
    auth::peer,
};

/// Most connections at once. There are few scrapers and probes.
const MOST: usize = 64;

/// Most connections at once from one address.
const MOST_OF_ADDRESS: usize = 32;

/// Time for connections to end at a shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Time limits of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Longest wait for the head of a request, the first one and each later one.
    pub head: Duration,
    /// How long a client may read nothing of a response.
    pub write: Duration,
    /// Longest duration of a connection.
    pub lifetime: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            write: Duration::from_secs(30),
            lifetime: Duration::from_secs(600),
        }
    }
}

/// Whether the process serves calls. Shared by the writer and the probes.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Sets whether calls are served from now on.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// Whether calls are served.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The pages and their limits. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pages {
    registry: prometheus::Registry,
    readiness: Readiness,
    seats: Seats,
    bounds: Bounds,
}

impl Pages {
    /// Pages that show the metrics of `registry` and the state of `readiness`.
    #[must_use]
    pub fn new(registry: prometheus::Registry, readiness: Readiness) -> Self {
        Self {
            registry,
            readiness,
            seats: Seats::new(MOST, MOST_OF_ADDRESS),
            bounds: Bounds::default(),
        }
    }

    /// The same with other time limits.
    #[must_use]
    pub fn bounded(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }
}

/// Serves until `shutdown` is cancelled, and then ends within three seconds.
pub async fn serve(socket: Socket, pages: Pages, shutdown: CancellationToken) {
    accept::serve(socket, pages, shutdown, DRAIN_TIMEOUT).await;
}

impl Conversation for Pages {
    const LISTENER: &'static str = "admin";

    type Seat = Seat;

    fn seat(&self, address: &peer::PeerAddress) -> Option<Seat> {
        let address = match address {
            peer::PeerAddress::Tcp(address) => address.ip(),
            peer::PeerAddress::Unix { .. } => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        Some(self.seats.take(address))
    }

    async fn run(self, accepted: Accepted, seat: Seat, tasks: Tasks) {
        let Bounds {
            head,
            write,
            lifetime,
        } = self.bounds;
        let seat = Arc::new(seat);
        let asking = Arc::clone(&seat);
        let service = service_fn(move |request: Request<Incoming>| {
            asking.used();
            let response = answer(&request, &self.registry, &self.readiness);
            async move { Ok::<_, Infallible>(response) }
        });
        let stream = Writing::new(accepted.stream, write);
        let mut connection = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(head)
                .serve_connection(TokioIo::new(stream), service)
        );
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = seat.lost() => Ok(()),
            () = tokio::time::sleep(lifetime) => Ok(()),
            () = tasks.drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "admin connection ended");
        }
    }
}

fn answer(
    request: &Request<Incoming>,
    registry: &prometheus::Registry,
    readiness: &Readiness,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n");
    }
    match request.uri().path() {
        "/metrics" => scrape(registry),
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if readiness.is_ready() => plain(StatusCode::OK, "ready\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        _ => plain(
            StatusCode::NOT_FOUND,
            "there are /metrics, /healthz and /readyz\n",
        ),
    }
}

fn scrape(registry: &prometheus::Registry) -> Response<Full<Bytes>> {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    if let Err(error) = encoder.encode(&registry.gather(), &mut text) {
        tracing::error!(%error, "metrics were not encoded");
        return plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics cannot be encoded\n",
        );
    }
    let mut response = plain(StatusCode::OK, text);
    if let Ok(kind) = header::HeaderValue::from_str(encoder.format_type()) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
