//! The consumer's side of a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::duties::Duties;
use super::reader::Reader;
use super::segment::Segment;
use crate::pg::{Error, Login, Lsn, Stream, Target};

/// The bounds of a stream.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most bytes in segments that the consumer has not dropped yet; reading pauses there. A
    /// single larger message is passed on alone.
    pub buffer: usize,
    /// Largest message that is accepted, in bytes. PostgreSQL never sends one of 1 GiB or more.
    pub message: usize,
    /// For how long in total the consumer may hold the reader back before the server is asked
    /// whether it is stopping. While the reader does not read, it cannot see that on the stream:
    /// the message is behind unread bytes.
    pub probe: Duration,
    /// How long the server may take to end the stream after CopyDone; inside a
    /// large transaction it takes as long as that transaction.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            buffer: 8 * 1024 * 1024,
            message: 1024 * 1024 * 1024,
            probe: Duration::from_secs(1),
            grace: Duration::from_secs(1),
        }
    }
}

/// The progress of a stream.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) received: AtomicU64,
    pub(super) confirmed: AtomicU64,
}

/// The messages of a stream. Dropping it closes the connection at once.
#[derive(Debug)]
pub struct ReplicationStream {
    segments: mpsc::UnboundedReceiver<Result<Segment, Error>>,
    acknowledger: Acknowledger,
    progress: Arc<Progress>,
    stop: CancellationToken,
    // Aborted when dropped, which closes the socket.
    reader: JoinSet<()>,
}

/// Acknowledges what the consumer does not need any more.
#[derive(Clone, Debug)]
pub struct Acknowledger(Arc<watch::Sender<Lsn>>);

impl Acknowledger {
    /// Acknowledges everything up to `lsn`: the server may remove it. A lower position than before
    /// changes nothing. A position that was not received yet takes effect when it is.
    pub fn acknowledge(&self, lsn: Lsn) {
        self.0.send_if_modified(|position| {
            let rises = lsn > *position;
            *position = lsn.max(*position);
            rises
        });
    }
}

impl ReplicationStream {
    /// Starts the reader on a connection that has just entered CopyBoth mode.
    pub(super) fn run(
        stream: Stream,
        buffer: BytesMut,
        server: (Target, Login),
        feedback_every: Duration,
        limits: Limits,
    ) -> Self {
        let (out, segments) = mpsc::unbounded_channel();
        let (positions, acknowledged) = watch::channel(Lsn::ZERO);
        let progress = Arc::new(Progress::default());
        let stop = CancellationToken::new();
        let duties = Duties::new(
            server,
            feedback_every,
            limits.probe,
            acknowledged,
            stop.clone(),
            progress.clone(),
        );
        let mut reader = JoinSet::new();
        reader.spawn(Reader::new(stream, buffer, duties, limits, out).run());
        let acknowledger = Acknowledger(Arc::new(positions));
        ReplicationStream {
            segments,
            acknowledger,
            progress,
            stop,
            reader,
        }
    }

    /// The next segment. Nothing follows an error. Safe to cancel.
    pub async fn next(&mut self) -> Option<Result<Segment, Error>> {
        self.segments.recv().await
    }

    /// A handle that acknowledges on this stream.
    pub fn acknowledger(&self) -> Acknowledger {
        self.acknowledger.clone()
    }

    /// See [`Acknowledger::acknowledge`].
    pub fn acknowledge(&self, lsn: Lsn) {
        self.acknowledger.acknowledge(lsn);
    }

    /// The position up to which the server's log was received.
    pub fn received(&self) -> Lsn {
        Lsn::new(self.progress.received.load(Ordering::Relaxed))
    }

    /// The last flush position that was sent to the server.
    pub fn confirmed(&self) -> Lsn {
        Lsn::new(self.progress.confirmed.load(Ordering::Relaxed))
    }

    /// Ends the stream in order: sends the last acknowledgement, and closes the connection when
    /// the server has ended the copy or the grace is over.
    pub async fn close(mut self) {
        self.stop.cancel();
        while self.reader.join_next().await.is_some() {}
    }
}
