//! A connection of the API: its admission, its handshakes and its client.

use std::{io, net::IpAddr, sync::Arc};

use opentelemetry::metrics::UpDownCounter;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::{
    accept::{
        Accepted, Certificates, Conversation, Doors, Entry, Full, Plain, Prefaced, Seat, Seats,
        Stream, Tasks, Verified, is_within, network,
    },
    api::budget::{Accounts, Caller, Refusals, Scope},
    auth::{Peer, peer},
    telemetry::flood,
};

use super::{HttpService, Settings, calls::FromCaller, life::Life};

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
    /// The seats of connections until their handshakes are done.
    pub(super) greeting: Seats,
    pub(super) open: UpDownCounter<i64>,
    pub(super) refusals: Refusals,
    pub(super) accounts: Accounts,
    pub(super) service: S,
}

impl<S: HttpService> Conversation for Edge<S> {
    const LISTENER: &'static str = "api";

    type Seat = (Entry, Option<Seat>);

    fn seat(&self, address: &peer::PeerAddress) -> Option<Self::Seat> {
        let full = match self.doors.enter(address) {
            Ok(entry) => return Some((entry, self.greeting_seat(address))),
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

    async fn run(self, accepted: Accepted, (_entry, seat): Self::Seat, tasks: Tasks) {
        let _open = Open::new(&self.open);
        let address = accepted.address;
        let greet = self.greet_seated(accepted.stream, seat);
        let (stream, verified) = match tasks.drain.run_until_cancelled(greet).await {
            Some(Ok(greeted)) => greeted,
            Some(Err(error)) => {
                log_failed_handshake(&address, &error);
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
    /// A seat for the handshakes of a client. Those of proxies have no bound of their own, nor
    /// has a Unix socket, which one user can use.
    fn greeting_seat(&self, address: &peer::PeerAddress) -> Option<Seat> {
        let address = match address {
            peer::PeerAddress::Tcp(address) => address.ip().to_canonical(),
            peer::PeerAddress::Unix { .. } => return None,
        };
        let proxy = is_within(address, &self.settings.proxies);
        (!proxy).then(|| self.greeting.take(seated_as(address)))
    }

    /// As [`Edge::greet`], and gives the seat back; fails when a newer client needs it.
    async fn greet_seated(
        &self,
        stream: Plain,
        seat: Option<Seat>,
    ) -> io::Result<(Prefaced, Option<Verified>)> {
        let Some(seat) = seat else {
            return self.greet(stream).await;
        };
        tokio::select! {
            greeted = self.greet(stream) => greeted,
            () = seat.lost() => {
                self.refusals.count(CONNECTIONS, Scope::Address);
                let message = "there are too many unfinished handshakes, and this is the oldest";
                Err(io::Error::new(io::ErrorKind::TimedOut, message))
            }
        }
    }

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

/// The address that stands for all of a network which are counted as one.
fn seated_as(address: IpAddr) -> IpAddr {
    network(address).addr()
}

/// A client whose certificate is refused may not learn why: its library may show no more
/// than that the connection has ended.
fn log_failed_handshake(peer: &peer::PeerAddress, error: &io::Error) {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let refused = matches!(
        inner,
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
    );
    if refused && flood::admits("client certificate was refused", "") {
        tracing::info!(%peer, %error, "client certificate was refused");
    } else {
        tracing::debug!(%peer, %error, "handshake failed");
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
