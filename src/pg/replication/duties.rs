//! What the reader does beside reading, and when: it sends feedback, it closes the stream when
//! the consumer asks for it, and it notices a server that is stopping.
//!
//! A server that is stopping waits until its walsenders have sent everything. While the consumer
//! does not read, the reader does not either, and cannot see the end of the stream. So it asks
//! the server over a second connection (the probe) whether it is stopping, and lets go if it is.

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

/// Shortest time between two messages that raise the flush position: the server may write the slot
/// to disk for each of them. Acknowledgements within this time share a message.
const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// Longest time that a probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Send feedback.
    Feedback,
    /// End the stream: the server is stopping and waits for us.
    Shutdown,
    /// End the stream: the consumer asked for it.
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
    // For how long the consumer has held the reader back since the last probe.
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

    /// Records that the server's log has arrived up to `lsn`.
    pub(super) fn receive(&mut self, lsn: Lsn, sent: i64) {
        self.feedback.receive(lsn, sent, Instant::now());
    }

    /// Answers a keepalive that asks for a reply. Feedback is sent all the time, so a server
    /// asks for it mostly when it is stopping: the next hold is followed by a probe at once.
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

    /// Publishes the progress of the stream. An acknowledgement ahead of what had been received
    /// can now be sent; then the next feedback is due soon.
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

    /// Notes that the consumer holds the reader back from now on.
    pub(super) fn hold(&mut self) {
        self.held_since.get_or_insert_with(Instant::now);
        if std::mem::take(&mut self.reply_wanted) {
            self.held = self.probe_after;
        }
    }

    /// Notes that the consumer does not hold the reader back any more.
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
                        // The reader goes on, which may be enough for the server to end the
                        // stream. The next hold is followed by a probe at once.
                        self.held = self.probe_after;
                    }
                }
                () = sleep_until(self.due) => return Duty::Feedback,
                Ok(()) = self.acknowledged.changed() => {
                    self.due = self.due.min((self.sent + FLUSH_EVERY).max(now));
                }
                () = sleep_until(probe_at.unwrap_or(now)), if idle && probe_at.is_some() => {
                    self.start_probe();
                }
            }
        }
    }

    /// Asks the server, over a connection of its own, whether it is stopping.
    fn start_probe(&mut self) {
        self.held = Duration::ZERO;
        self.held_since = Some(Instant::now());
        let (target, login) = self.server.clone();
        self.probe
            .spawn(async move { wire::is_shutting_down(&target, &login, PROBE_LIMIT).await });
    }
}
