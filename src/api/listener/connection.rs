//! The life of one connection: handshakes, HTTP/2, age, certificate, drain.

use std::{
    convert::Infallible,
    future, io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, rt::Executor, server::conn::http2};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use opentelemetry::{metrics::UpDownCounter, trace::TraceId};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{BoxError, Service};

use crate::{
    api::{
        budget::{Accounts, Caller, Refusals, Scope},
        unread::{Patience, attended},
    },
    auth::{Peer, certificate::Identity},
};

use super::{
    STREAM_WINDOW, Settings,
    coalesce::Coalesced,
    deadline::Writing,
    io::{Plain, Prefaced, Stream},
    socket::Accepted,
    tls,
    verified::Verified,
};

/// What every connection is served with.
#[derive(Clone, Debug)]
pub(super) struct Acceptor {
    pub(super) settings: Arc<Settings>,
    pub(super) certificates: Option<Arc<tls::Certificates>>,
    pub(super) open: UpDownCounter<i64>,
    pub(super) refusals: Refusals,
    pub(super) accounts: Accounts,
    pub(super) tasks: TaskTracker,
    pub(super) drain: CancellationToken,
    pub(super) abort: CancellationToken,
}

impl Acceptor {
    /// Serves a connection to its end.
    pub(super) async fn serve<S, B>(self, accepted: Accepted, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let _open = Open::new(&self.open);
        let address = accepted.address;
        let greeted = self
            .drain
            .run_until_cancelled(self.greet(accepted.stream))
            .await;
        let greeted = match greeted {
            Some(Ok(greeted)) => greeted,
            Some(Err(error)) => {
                tracing::debug!(peer = %address, %error, "handshake failed");
                return;
            }
            None => return,
        };
        let peer = Peer {
            address,
            certificate: greeted.identity,
        };
        let caller = Arc::new(Caller::new(peer, &self.accounts));
        let life = Life {
            acceptor: &self,
            caller: Arc::clone(&caller),
            verified: greeted.verified,
        };
        let service = FromCaller {
            inner: service,
            caller,
        };
        if let Err(error) = life.converse(greeted.stream, service).await {
            tracing::debug!(peer = %address, %error, "connection ended");
        }
    }

    /// TLS if configured, then the HTTP/2 preface.
    async fn greet(&self, stream: Plain) -> io::Result<Greeted> {
        let bound = self.settings.handshake_timeout;
        let (mut identity, mut verified) = (None, None);
        let stream = match &self.certificates {
            None => Stream::Plain(stream),
            Some(certificates) => {
                let (loaded, next) = certificates.current();
                let acceptor = TlsAcceptor::from(loaded.config);
                let stream = timeout(bound, acceptor.accept(stream)).await??;
                let (_, session) = stream.get_ref();
                if session.alpn_protocol() != Some(tls::ALPN) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "no ALPN h2"));
                }
                if let Some([certificate, ..]) = session.peer_certificates() {
                    identity = Some(Identity::read(certificate));
                    let chain = session.peer_certificates().unwrap_or_default();
                    verified = Some(Verified::new(chain.to_vec(), next));
                }
                Stream::Tls(Box::new(stream))
            }
        };
        let stream = timeout(bound, Prefaced::read(stream)).await??;
        Ok(Greeted {
            stream,
            identity,
            verified,
        })
    }

    /// Waits at the drain until a connection has had no calls for a while. The end that
    /// HTTP/2 knows waits for the client to answer, which an idle one may never do.
    async fn left_alone(&self, calls: &TaskTracker) {
        self.drain.cancelled().await;
        calls.close();
        loop {
            calls.wait().await;
            sleep(self.settings.farewell).await;
            if calls.is_empty() {
                return;
            }
        }
    }

    fn builder(&self, calls: &TaskTracker) -> http2::Builder<Tracked> {
        let settings = &self.settings;
        let mut builder = http2::Builder::new(Tracked {
            tasks: self.tasks.clone(),
            calls: calls.clone(),
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

/// A connection whose client has shown who it is.
struct Greeted {
    stream: Prefaced,
    /// Of the client's certificate, if it has shown one.
    identity: Option<Identity>,
    verified: Option<Verified>,
}

/// What ends a connection.
struct Life<'a> {
    acceptor: &'a Acceptor,
    caller: Arc<Caller>,
    verified: Option<Verified>,
}

impl Life<'_> {
    /// HTTP/2 until the client leaves, or is told to go and has had its grace.
    async fn converse<S, B>(
        mut self,
        stream: Prefaced,
        service: FromCaller<S>,
    ) -> Result<(), hyper::Error>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let settings = Arc::clone(&self.acceptor.settings);
        let service = TowerToHyperService::new(service);
        let calls = TaskTracker::new();
        let builder = self.acceptor.builder(&calls);
        let stream = Coalesced::new(Writing::new(stream, settings.write_timeout));
        let mut connection =
            std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut left_alone = std::pin::pin!(self.acceptor.left_alone(&calls));
        let mut too_old = settings.max_age.map(|age| Instant::now() + jittered(age));
        let mut draining = false;
        let mut grace = None;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended,
                () = left_alone.as_mut() => return Ok(()),
                () = until(grace) => break,
                () = self.acceptor.drain.cancelled(), if !draining => draining = true,
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

    /// Lets no call begin for a client whose certificate is not accepted any more.
    fn close(&mut self, error: &rustls::Error) {
        self.verified = None;
        self.caller.ending.close();
        let peer = &self.caller.peer.address;
        tracing::info!(%peer, %error, "client certificate is not accepted any more");
    }
}

/// Waits until the certificate is not accepted any more; for ever without one.
async fn refused(verified: &mut Option<Verified>) -> rustls::Error {
    match verified {
        Some(verified) => verified.refused().await,
        None => future::pending().await,
    }
}

/// The end of this grace that begins now, or an earlier one.
fn sooner(end: Option<Instant>, grace: Option<Duration>) -> Option<Instant> {
    let fresh = grace.map(|grace| Instant::now() + grace);
    match (end, fresh) {
        (Some(end), Some(fresh)) => Some(end.min(fresh)),
        (end, fresh) => end.or(fresh),
    }
}

/// What metrics call the bound on the time that an answer stays unread.
const UNREAD_TIME: &str = "unread_time";

/// Sleeps until then, or for ever.
async fn until(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => future::pending().await,
    }
}

/// Up to a tenth longer, so that connections of one moment do not end in one moment.
fn jittered(age: Duration) -> Duration {
    let random = RandomIdGenerator::default().new_trace_id();
    let [first, ..] = TraceId::to_bytes(random);
    age + age / 10 * u32::from(first) / 256
}

/// Runs the tasks of calls where a shutdown sees them. They end with their connection:
/// hyper drops a call whose stream is gone. One whose answer is not read is given up.
#[derive(Clone, Debug)]
struct Tracked {
    tasks: TaskTracker,
    /// The calls of this connection.
    calls: TaskTracker,
    patience: Patience,
    refusals: Refusals,
}

impl<F> Executor<F> for Tracked
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let refusals = self.refusals.clone();
        let given_up = move || refusals.count(UNREAD_TIME, Scope::Connection);
        let call = attended(future, self.patience, given_up);
        self.tasks.spawn(self.calls.track_future(call));
    }
}

/// Counts a connection as open while it lives.
struct Open(UpDownCounter<i64>);

impl Open {
    fn new(counter: &UpDownCounter<i64>) -> Self {
        counter.add(1, &[]);
        Self(counter.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.add(-1, &[]);
    }
}

/// A service whose requests name their caller.
#[derive(Clone, Debug)]
struct FromCaller<S> {
    inner: S,
    caller: Arc<Caller>,
}

impl<S, B> Service<Request<B>> for FromCaller<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(Arc::clone(&self.caller));
        self.inner.call(request)
    }
}
