//! The accept loop: sockets, TLS, how many connections there may be, and the end.
//!
//! What is said on a connection is a [`Conversation`]: HTTP/2 for the API, HTTP/1.1 for
//! the admin pages. The loop asks it for a place for each connection, runs it in a task of
//! its own, and at the end waits for those tasks within a bound.

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
pub use doors::{Doors, Full, Place};
pub use seats::{Seat, Seats};
pub use socket::{Accepted, Address, Socket};
pub(crate) use stream::delegate_read;
pub use stream::{Plain, Prefaced, Stream};
pub use tls::{Certificates, ClientAuth, Tls};
pub use verified::Verified;

/// Pause after an accept that failed: the usual cause, no free descriptors, does not
/// go away by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time for cut-off connections to notice.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// What is said on the connections of a listener.
pub trait Conversation: Clone + Send + Sync + 'static {
    /// Name of the listener in logs.
    const LISTENER: &'static str;

    /// What a connection holds while it is open.
    type Place: Send + 'static;

    /// A place for a connection from there. None: it is closed at once. Nothing was read
    /// from it yet.
    fn place(&self, address: &peer::Address) -> Option<Self::Place>;

    /// Talks to the connection's end, and soon after the drain begins brings it about.
    fn run(
        self,
        connection: Accepted,
        place: Self::Place,
        tasks: Tasks,
    ) -> impl Future<Output = ()> + Send + 'static;
}

/// The tasks of a listener, and what ends them.
#[derive(Clone, Debug)]
pub struct Tasks {
    /// Where a conversation spawns what it needs, so that the end waits for it.
    pub tracker: TaskTracker,
    /// Cancelled when no new connections are accepted.
    pub drain: CancellationToken,
}

/// Serves connections until `drain` is cancelled. Then it stops accepting, waits for the
/// conversations at most `drain_timeout` and cuts off the rest. Dropping the future cuts
/// off all connections.
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
                let Some(place) = conversation.place(&accepted.address) else {
                    continue;
                };
                let run = conversation.clone().run(accepted, place, tasks.clone());
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
