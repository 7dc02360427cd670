//! What a reader owes the server besides reading, and when it is due.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::feedback::Feedback;
use super::stream::Progress;
use crate::pg::{Login, Lsn, Target, wire};

/// Acknowledgements that follow each other faster share a message: the server
/// may write the slot to disk for each.
const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// How long one look at the server may take.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Send feedback.
    Feedback,
    /// The server is stopping and we hold it up.
    Shutdown,
    /// The consumer wants the stream to end.
    Close,
}

#[derive(Debug)]
pub(super) struct Duties {
    feedback: Feedback,
    every: Duration,
    due: Instant,
    sent: Instant,
    acknowledged: watch::Receiver<Lsn>,
    stop: CancellationToken,
    progress: Arc<Progress>,
    server: (Target, Login),
    probe_after: Duration,
    // How long we were held back since the last probe.
    held: Duration,
    held_since: Option<Instant>,
    probe: JoinSet<bool>,
    reply_wanted: bool,
}

impl Duties {
    pub(super) fn new(
        server: (Target, Login),
        every: Duration,
        probe_after: Duration,
        acknowledged: watch::Receiver<Lsn>,
        stop: CancellationToken,
        progress: Arc<Progress>,
    ) -> Self {
        let now = Instant::now();
        Duties {
            feedback: Feedback::new(),
            every,
            due: now + every,
            sent: now,
            acknowledged,
            stop,
            progress,
            server,
            probe_after,
            held: Duration::ZERO,
            held_since: None,
            probe: JoinSet::new(),
            reply_wanted: false,
        }
    }

    /// The server's log up to `lsn` has arrived.
    pub(super) fn receive(&mut self, lsn: Lsn, sent: i64) {
        self.feedback.receive(lsn, sent, Instant::now());
    }

    /// A keepalive wants an answer. Since feedback never stops, that is most
    /// likely a server that is stopping.
    pub(super) fn reply_at_once(&mut self) {
        self.reply_wanted = true;
        self.due = Instant::now();
    }

    /// The feedback to send now.
    pub(super) fn message(&mut self) -> [u8; 39] {
        let now = Instant::now();
        self.feedback
            .acknowledge(*self.acknowledged.borrow_and_update());
        let message = self.feedback.message(now);
        self.sent = now;
        self.due = now + self.every;
        self.publish();
        message
    }

    /// Shows others where the stream stands, and does not let an
    /// acknowledgement wait that what was just received has made good.
    pub(super) fn publish(&mut self) {
        self.progress
            .received
            .store(self.feedback.received().get(), Ordering::Relaxed);
        self.progress
            .confirmed
            .store(self.feedback.confirmed().get(), Ordering::Relaxed);
        if self.feedback.rises() {
            self.due = self.due.min(self.sent + FLUSH_EVERY);
        }
    }

    /// The consumer holds us back from here on.
    pub(super) fn hold(&mut self) {
        self.held_since.get_or_insert_with(Instant::now);
        if std::mem::take(&mut self.reply_wanted) {
            self.held = self.probe_after;
        }
    }

    /// It does no more.
    pub(super) fn release(&mut self) {
        self.reply_wanted = false;
        if let Some(since) = self.held_since.take() {
            self.held += since.elapsed();
        }
    }

    /// Waits until there is something to do. Safe to cancel.
    pub(super) async fn next(&mut self) -> Duty {
        loop {
            let now = Instant::now();
            let idle = self.probe.is_empty();
            let probe_at = self
                .held_since
                .map(|at| at + self.probe_after.saturating_sub(self.held));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Duty::Close,
                Some(stopping) = self.probe.join_next(), if !idle => {
                    if matches!(stopping, Ok(true)) {
                        if self.held_since.is_some() {
                            return Duty::Shutdown;
                        }
                        // Reading goes on, and so may be all that it takes.
                        self.held = self.probe_after;
                    }
                }
                () = sleep_until(self.due) => return Duty::Feedback,
                Ok(()) = self.acknowledged.changed() => {
                    self.due = self.due.min((self.sent + FLUSH_EVERY).max(now));
                }
                () = sleep_until(probe_at.unwrap_or(now)), if idle && probe_at.is_some() => {
                    self.look();
                }
            }
        }
    }

    /// Asks the server, over a connection of its own, whether it is stopping.
    fn look(&mut self) {
        self.held = Duration::ZERO;
        self.held_since = Some(Instant::now());
        let (target, login) = self.server.clone();
        self.probe
            .spawn(async move { wire::is_shutting_down(&target, &login, PROBE_LIMIT).await });
    }
}
