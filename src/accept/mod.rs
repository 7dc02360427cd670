//! The accept loop: sockets, TLS, limits on connections, and shutdown.
//!
//! A [`Conversation`] speaks the protocol of a connection: HTTP/2 for the API, HTTP/1.1 for the
//! admin pages. For each connection the loop asks it for a seat and runs it in a task. At the
//! end the loop waits for those tasks, with a limit.

mod addresses;
mod deadline;
mod doors;
mod seats;
mod socket;
mod stream;
mod tls;
mod verified;

use std::{future::Future, time::Duration};

use tokio::time;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{auth::peer, telemetry::flood};

pub use addresses::{is_within, network};
pub use deadline::Writing;
pub use doors::{Doors, Entry, Full};
pub use seats::{Seat, Seats};
pub use socket::{Accepted, BindAddress, Socket};
pub(crate) use stream::delegate_read;
pub use stream::{Plain, Prefaced, Stream};
pub use tls::{Certificates, ClientAuth, Tls};
pub use verified::Verified;

/// Pause after a failed accept. The usual cause is that no file descriptor is free, which takes
/// some time to pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time for aborted connections to end.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The protocol on the connections of a listener.
pub trait Conversation: Clone + Send + Sync + 'static {
    /// Name of the listener in logs.
    const LISTENER: &'static str;

    /// What a connection holds while it is open, such as its share of a limit.
    type Seat: Send + 'static;

    /// A seat for a connection from that address, before anything is read from it. Without one
    /// the connection is closed at once.
    fn seat(&self, address: &peer::PeerAddress) -> Option<Self::Seat>;

    /// Serves the connection until it ends. After the drain begins it must end the connection
    /// soon.
    fn run(
        self,
        connection: Accepted,
        seat: Self::Seat,
        tasks: Tasks,
    ) -> impl Future<Output = ()> + Send + 'static;
}

/// The tasks of a listener, and the token that ends them.
#[derive(Clone, Debug)]
pub struct Tasks {
    /// Tracks the tasks that a conversation spawns, so that shutdown waits for them.
    pub tracker: TaskTracker,
    /// Cancelled when the listener stops accepting connections.
    pub drain: CancellationToken,
}

/// Serves connections until `drain` is cancelled. Then it stops accepting, waits for the
/// conversations for at most `drain_timeout`, and aborts the rest. Dropping the future aborts
/// all connections.
pub async fn serve<C: Conversation>(
    socket: Socket,
    conversation: C,
    drain: CancellationToken,
    drain_timeout: Duration,
) {
    let abort = CancellationToken::new();
    let _abort_on_drop = abort.clone().drop_guard();
    let tasks = Tasks {
        tracker: TaskTracker::new(),
        drain,
    };
    accept(&socket, &conversation, &tasks, &abort).await;
    drop(socket);
    let tracker = tasks.tracker;
    tracker.close();
    if time::timeout(drain_timeout, tracker.wait()).await.is_err() {
        let (listener, tasks) = (C::LISTENER, tracker.len());
        tracing::warn!(listener, tasks, "connections are cut off");
        abort.cancel();
        let _ = time::timeout(ABORT_TIMEOUT, tracker.wait()).await;
    }
}

async fn accept<C: Conversation>(
    socket: &Socket,
    conversation: &C,
    tasks: &Tasks,
    abort: &CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = tasks.drain.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => {
                let Some(seat) = conversation.seat(&accepted.address) else {
                    continue;
                };
                let run = conversation.clone().run(accepted, seat, tasks.clone());
                let abort = abort.clone();
                let run = async move { abort.run_until_cancelled(run).await };
                tasks.tracker.spawn(run);
            }
            Err(error) => {
                if flood::admits("connection was not accepted", C::LISTENER) {
                    let listener = C::LISTENER;
                    tracing::warn!(listener, %error, "connection was not accepted");
                }
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
