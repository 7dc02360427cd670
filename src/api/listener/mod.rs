//! The listener of the API: HTTP/2 on the [accept loop](crate::accept).
//!
//! Everything is limited before the caller is known: connections, handshakes, headers, streams,
//! windows, the age of a connection and the time of a shutdown.

mod calls;
mod coalesce;
mod connection;
mod life;
mod service;
mod settings;

use std::sync::Arc;

use opentelemetry::metrics::{Meter, UpDownCounter};
use tokio_util::sync::CancellationToken;

use crate::{
    accept::{self, Certificates, Doors, Seats, Socket},
    api::budget::{Accounts, Refusals},
    domain::Result,
    telemetry::names,
};

pub use crate::accept::{BindAddress, ClientAuth, Tls};
pub use service::HttpService;
pub use settings::{STREAM_WINDOW, Settings};

use connection::Edge;

/// The only protocol that is accepted, by its ALPN name.
const ALPN: &[u8] = b"h2";

/// A bound listener that does not serve yet.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    settings: Settings,
    certificates: Option<Arc<Certificates>>,
    open: UpDownCounter<i64>,
    refusals: Refusals,
}

impl Listener {
    /// Binds the socket and reads the certificates.
    ///
    /// # Errors
    /// CONFIG_INVALID when the address cannot be bound or TLS cannot be set up.
    pub async fn bind(address: &BindAddress, settings: Settings, meter: &Meter) -> Result<Self> {
        let certificates = match &settings.tls {
            Some(files) => {
                let loaded = Certificates::load(files.clone(), ALPN).await?;
                Some(Arc::new(loaded))
            }
            None => None,
        };
        let socket = Socket::bind(address).await?;
        let open = meter
            .i64_up_down_counter(names::CONNECTIONS_OPEN)
            .with_unit("{connection}")
            .with_description("Connections to the API that are open.")
            .build();
        Ok(Self {
            socket,
            settings,
            certificates,
            open,
            refusals: Refusals::new(meter),
        })
    }

    /// The address that it listens on. Port 0 is replaced by the port that was chosen.
    #[must_use]
    pub fn local_addr(&self) -> &BindAddress {
        self.socket.address()
    }

    /// Serves until `drain` is cancelled. Then it stops accepting, sends GOAWAY to every client,
    /// waits for running calls for at most `settings.drain_timeout`, and aborts the rest.
    /// Dropping the future aborts all connections.
    pub async fn run<S: HttpService>(self, service: S, drain: CancellationToken) {
        let settings = Arc::new(self.settings);
        let certificates = self.certificates.clone();
        let edge = Edge {
            certificates: self.certificates,
            doors: Doors::new(
                settings.max_connections,
                settings.max_connections_per_address,
                &settings.proxies,
            ),
            greeting: Seats::new(
                share(settings.max_connections),
                share(settings.max_connections_per_address),
            ),
            accounts: Accounts::new(&settings.proxies),
            settings: Arc::clone(&settings),
            open: self.open,
            refusals: self.refusals,
            service,
        };
        let watch = async {
            if let Some(certificates) = certificates {
                let watch = certificates.watch(settings.reload_interval);
                drain.run_until_cancelled(watch).await;
            }
        };
        let serve = accept::serve(self.socket, edge, drain.clone(), settings.drain_timeout);
        tokio::join!(serve, watch);
    }
}

/// How many of so many connections may be in their handshakes: three quarters. Of more the
/// oldest is closed, so that half-sent handshakes leave places for clients that finish theirs.
fn share(connections: usize) -> usize {
    connections - connections / 4
}
