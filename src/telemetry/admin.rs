//! The admin listener: metrics for Prometheus and probes for orchestrators, by
//! HTTP/1.1 without authentication, meant for loopback or a cluster's own network.
//!
//! - `GET /metrics`: all metrics in Prometheus' text form.
//! - `GET /healthz`: 200 as long as the process answers.
//! - `GET /readyz`: 200 when calls are served, else 503.
//!
//! A new connection always gets in, and the idlest one goes for it: idle and slow clients
//! do not keep a probe from being answered.

use std::{
    convert::Infallible,
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
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    flood,
    seats::{Seat, Seats},
};

/// Longest wait for a request's head, also for the next one of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest life of a connection, whatever it does: a client that does not read what it
/// asked for would keep it.
const LIFETIME: Duration = Duration::from_secs(600);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after an accept that failed, for lack of descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether the process serves calls, shared between who knows and who tells.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says whether calls are served from now on.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// Whether calls are served.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Serves until `shutdown` is cancelled, then ends within two seconds.
pub async fn serve(
    listener: TcpListener,
    registry: prometheus::Registry,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let seats = Seats::default();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let pages = (registry.clone(), readiness.clone());
                let seat = seats.take(peer.ip());
                tasks.spawn(connection(stream, pages, shutdown.clone(), seat));
            }
            Err(error) => {
                if flood::admits("admin connection was not accepted", "") {
                    tracing::warn!(%error, "admin connection was not accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tasks.close();
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, tasks.wait()).await;
}

async fn connection(
    stream: TcpStream,
    (registry, readiness): (prometheus::Registry, Readiness),
    shutdown: CancellationToken,
    seat: Seat,
) {
    let seat = Arc::new(seat);
    let asking = Arc::clone(&seat);
    let service = service_fn(move |request: Request<Incoming>| {
        asking.used();
        let response = answer(&request, &registry, &readiness);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
    );
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = seat.lost() => Ok(()),
        () = tokio::time::sleep(LIFETIME) => Ok(()),
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_TIMEOUT, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended");
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
