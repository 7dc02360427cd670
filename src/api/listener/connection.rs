//! A connection of the API: its admission, its handshakes and its client.

use std::{convert::Infallible, io, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use opentelemetry::metrics::UpDownCounter;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tower::{BoxError, Service};

use crate::{
    accept::{
        Accepted, Certificates, Conversation, Doors, Entry, Full, Plain, Prefaced, Stream, Tasks,
        Verified,
    },
    api::budget::{Accounts, Caller, Refusals, Scope},
    auth::{Peer, peer},
    telemetry::flood,
};

use super::{Settings, calls::FromCaller, life::Life};

/// The preface of every HTTP/2 client (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Name of the limit on connections, in metrics.
const CONNECTIONS: &str = "connections";

/// What all connections share.
#[derive(Clone, Debug)]
pub(super) struct Edge<S> {
    pub(super) settings: Arc<Settings>,
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) doors: Doors,
    pub(super) open: UpDownCounter<i64>,
    pub(super) refusals: Refusals,
    pub(super) accounts: Accounts,
    pub(super) service: S,
}

impl<S, B> Conversation for Edge<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    const LISTENER: &'static str = "api";

    type Seat = Entry;

    fn seat(&self, address: &peer::PeerAddress) -> Option<Entry> {
        let full = match self.doors.enter(address) {
            Ok(seat) => return Some(seat),
            Err(full) => full,
        };
        match full {
            Full::Address => {
                self.refusals.count(CONNECTIONS, Scope::Address);
                tracing::debug!(peer = %address, "connection was closed: its address has too many");
            }
            Full::Process => {
                self.refusals.count(CONNECTIONS, Scope::Process);
                if flood::admits("connection was closed", "process") {
                    tracing::warn!("connection was closed: there are too many");
                }
            }
        }
        None
    }

    async fn run(self, accepted: Accepted, _seat: Entry, tasks: Tasks) {
        let _open = Open::new(&self.open);
        let address = accepted.address;
        let greet = self.greet(accepted.stream);
        let (stream, verified) = match tasks.drain.run_until_cancelled(greet).await {
            Some(Ok(greeted)) => greeted,
            Some(Err(error)) => {
                tracing::debug!(peer = %address, %error, "handshake failed");
                return;
            }
            None => return,
        };
        let peer = Peer {
            address,
            certificate: verified.as_ref().map(Verified::identity),
        };
        let caller = Arc::new(Caller::new(peer, &self.accounts));
        let life = Life {
            settings: self.settings,
            tasks,
            calls: TaskTracker::new(),
            refusals: self.refusals,
            caller: Arc::clone(&caller),
            verified,
        };
        let service = FromCaller {
            inner: self.service,
            caller,
        };
        if let Err(error) = life.converse(stream, service).await {
            tracing::debug!(peer = %address, %error, "connection ended");
        }
    }
}

impl<S: Sync> Edge<S> {
    /// Performs the TLS handshake if TLS is configured, and reads the HTTP/2 preface.
    async fn greet(&self, stream: Plain) -> io::Result<(Prefaced, Option<Verified>)> {
        let bound = self.settings.handshake_timeout;
        let (stream, verified) = match &self.certificates {
            None => (Stream::Plain(stream), None),
            Some(certificates) => timeout(bound, certificates.handshake(stream)).await??,
        };
        let stream = timeout(bound, Prefaced::read(stream, PREFACE)).await??;
        Ok((stream, verified))
    }
}

/// Counts a connection as open until it is dropped.
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
