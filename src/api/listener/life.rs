//! The life of a connection: HTTP/2, and what ends it: age, certificate, drain.

use std::{future, sync::Arc, time::Duration};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use opentelemetry::trace::TraceId;
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accept::{Prefaced, Tasks, Verified, Writing},
    api::{
        budget::{Caller, Refusals},
        unread::Patience,
    },
    telemetry::flood,
};

use super::{
    HttpService, STREAM_WINDOW, Settings,
    calls::{FromCaller, Tracked},
    coalesce::Coalesced,
};

/// What a connection needs while it is open, and what ends it.
pub(super) struct Life {
    pub(super) settings: Arc<Settings>,
    pub(super) tasks: Tasks,
    /// The calls of this connection.
    pub(super) calls: TaskTracker,
    pub(super) refusals: Refusals,
    pub(super) caller: Arc<Caller>,
    pub(super) verified: Option<Verified>,
}

impl Life {
    /// Serves HTTP/2 until the client leaves, or until the grace after GOAWAY is over.
    pub(super) async fn converse<S: HttpService>(
        mut self,
        stream: Prefaced,
        service: FromCaller<S>,
    ) -> Result<(), hyper::Error> {
        let settings = Arc::clone(&self.settings);
        let (calls, drain) = (self.calls.clone(), self.tasks.drain.clone());
        let service = TowerToHyperService::new(service);
        let builder = self.builder();
        let stream = Coalesced::new(Writing::new(stream, settings.write_timeout));
        let mut connection =
            std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut left_alone = std::pin::pin!(left_alone(&calls, &drain, settings.farewell));
        let mut too_old = settings.max_age.map(|age| Instant::now() + jittered(age));
        let mut draining = false;
        let mut grace = None;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended,
                () = left_alone.as_mut() => return Ok(()),
                () = until(grace) => break,
                () = drain.cancelled(), if !draining => draining = true,
                () = until(too_old) => {
                    too_old = None;
                    grace = sooner(grace, settings.age_grace);
                }
                error = refused(&mut self.verified) => {
                    self.close(&error);
                    grace = sooner(grace, Some(settings.certificate_grace));
                }
            }
            connection.as_mut().graceful_shutdown();
        }
        self.caller.ending.finish();
        tokio::select! {
            ended = connection => ended,
            () = sleep(settings.farewell) => Ok(()),
        }
    }

    /// Refuses new calls of a client whose certificate is not accepted any more.
    fn close(&mut self, error: &rustls::Error) {
        self.verified = None;
        self.caller.ending.close();
        let peer = &self.caller.peer.address;
        if flood::admits("client certificate is not accepted any more", "") {
            tracing::info!(%peer, %error, "client certificate is not accepted any more");
        }
    }

    fn builder(&self) -> http2::Builder<Tracked> {
        let settings = &self.settings;
        let mut builder = http2::Builder::new(Tracked {
            tasks: self.tasks.tracker.clone(),
            calls: self.calls.clone(),
            patience: Patience {
                call: settings.write_timeout,
                stream: settings.stream_write_timeout,
            },
            refusals: self.refusals.clone(),
        });
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(settings.keepalive_interval)
            .keep_alive_timeout(settings.keepalive_timeout)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(settings.connection_window)
            .max_concurrent_streams(settings.max_concurrent_streams)
            .max_header_list_size(settings.max_header_list_size)
            .max_send_buf_size(settings.max_send_buffer)
            .max_pending_accept_reset_streams(settings.max_pending_resets)
            .max_local_error_reset_streams(settings.max_local_resets);
        builder
    }
}

/// During the drain, waits until a connection has had no calls for a while. The graceful end of
/// HTTP/2 waits for a reply of the client, which an idle one may never send.
async fn left_alone(calls: &TaskTracker, drain: &CancellationToken, farewell: Duration) {
    drain.cancelled().await;
    calls.close();
    loop {
        calls.wait().await;
        sleep(farewell).await;
        if calls.is_empty() {
            return;
        }
    }
}

/// Waits until the certificate is not accepted any more; for ever if there is none.
async fn refused(verified: &mut Option<Verified>) -> rustls::Error {
    match verified {
        Some(verified) => verified.refused().await,
        None => future::pending().await,
    }
}

/// The earlier of `end` and the end of a grace that begins now.
fn sooner(end: Option<Instant>, grace: Option<Duration>) -> Option<Instant> {
    let fresh = grace.map(|grace| Instant::now() + grace);
    match (end, fresh) {
        (Some(end), Some(fresh)) => Some(end.min(fresh)),
        (end, fresh) => end.or(fresh),
    }
}

/// Sleeps until that time; for ever if there is none.
async fn until(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => future::pending().await,
    }
}

/// Adds up to a tenth, so that connections that begin together do not end together.
fn jittered(age: Duration) -> Duration {
    let random = RandomIdGenerator::default().new_trace_id();
    let [first, ..] = TraceId::to_bytes(random);
    age + age / 10 * u32::from(first) / 256
}
