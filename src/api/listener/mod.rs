//! The API's own accept loop: TCP and Unix sockets, TLS, HTTP/2.
//!
//! Everything is bounded before anybody is known: connections, handshakes, headers,
//! streams, windows, the age of a connection and the end of the process.

mod coalesce;
mod connection;
mod deadline;
mod io;
mod settings;
mod socket;
mod tls;
mod verified;

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use opentelemetry::metrics::{Meter, UpDownCounter};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{BoxError, Service};

use crate::{
    api::budget::{Accounts, Addresses, Entered, Refusals, Scope},
    auth::peer,
    domain::Result,
    telemetry::{flood, names},
};

pub use settings::{Address, ClientAuth, STREAM_WINDOW, Settings, Tls};

use connection::Acceptor;
use socket::{Accepted, Socket};

/// Pause after an accept that failed: the usual cause, no free descriptors, does not
/// go away by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What metrics call the bound on connections.
const CONNECTIONS: &str = "connections";
/// Time for cut-off connections to notice.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// A bound socket that is not served yet.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    settings: Settings,
    certificates: Option<Arc<tls::Certificates>>,
    open: UpDownCounter<i64>,
    refusals: Refusals,
}

impl Listener {
    /// Binds the socket and reads the certificates.
    ///
    /// # Errors
    /// CONFIG_INVALID when the address cannot be bound or TLS cannot be set up.
    pub async fn bind(address: &Address, settings: Settings, meter: &Meter) -> Result<Self> {
        let certificates = match &settings.tls {
            Some(files) => Some(Arc::new(tls::Certificates::load(files.clone()).await?)),
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

    /// Where it listens, with the port that was picked for port 0.
    #[must_use]
    pub fn local_addr(&self) -> &Address {
        self.socket.address()
    }

    /// Serves until `drain` is cancelled. Then it stops accepting, tells every client
    /// to go (GOAWAY), waits for calls under way at most `settings.drain_timeout` and
    /// cuts off the rest. Dropping the future cuts off all connections.
    pub async fn run<S, B>(self, service: S, drain: CancellationToken)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let tasks = TaskTracker::new();
        let abort = CancellationToken::new();
        let _abort_on_drop = abort.clone().drop_guard();
        if let Some(certificates) = &self.certificates {
            let watch = Arc::clone(certificates).watch(self.settings.reload_interval);
            tasks.spawn(drain.clone().run_until_cancelled_owned(watch));
        }
        let proxies = &self.settings.proxies;
        let doors = Doors {
            free: Arc::new(Semaphore::new(self.settings.max_connections)),
            addresses: Addresses::new(self.settings.max_connections_per_address, proxies),
            refusals: self.refusals.clone(),
        };
        let acceptor = Acceptor {
            accounts: Accounts::new(proxies),
            settings: Arc::new(self.settings),
            certificates: self.certificates,
            open: self.open,
            refusals: self.refusals,
            tasks: tasks.clone(),
            drain: drain.clone(),
            abort: abort.clone(),
        };
        accept(&self.socket, &doors, &acceptor, &service).await;
        drop(self.socket);
        tasks.close();
        if time::timeout(acceptor.settings.drain_timeout, tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(tasks = tasks.len(), "connections are cut off");
            abort.cancel();
            let _ = time::timeout(ABORT_TIMEOUT, tasks.wait()).await;
        }
    }
}

/// How many connections are let in, of all addresses and of each.
struct Doors {
    free: Arc<Semaphore>,
    addresses: Addresses,
    refusals: Refusals,
}

impl Doors {
    /// A place for a connection, if there is one. Nothing was read from it yet.
    fn enter(&self, address: &peer::Address) -> Option<(Entered, OwnedSemaphorePermit)> {
        let Some(entered) = self.addresses.enter(address) else {
            self.refusals.count(CONNECTIONS, Scope::Address);
            tracing::debug!(peer = %address, "connection was closed: its address has too many");
            return None;
        };
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            self.refusals.count(CONNECTIONS, Scope::Process);
            if flood::admits("connection was closed", "process") {
                tracing::warn!("connection was closed: there are too many");
            }
            return None;
        };
        Some((entered, permit))
    }
}

async fn accept<S, B>(socket: &Socket, doors: &Doors, acceptor: &Acceptor, service: &S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            biased;
            () = acceptor.drain.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => admit(accepted, doors, acceptor, service),
            Err(error) => {
                if flood::admits("connection was not accepted", "") {
                    tracing::warn!(%error, "connection was not accepted");
                }
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection if there is room, else closes it at once: the client can try
/// another replica, which it could not while it waits here.
fn admit<S, B>(accepted: Accepted, doors: &Doors, acceptor: &Acceptor, service: &S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let Some(place) = doors.enter(&accepted.address) else {
        return;
    };
    let serve = acceptor.clone().serve(accepted, service.clone());
    let abort = acceptor.abort.clone();
    acceptor.tasks.spawn(async move {
        let _place = place;
        abort.run_until_cancelled(serve).await;
    });
}
