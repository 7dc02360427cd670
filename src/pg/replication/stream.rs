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
    /// How many bytes may wait for the consumer, or be in its hands, before
    /// reading stops. A single larger message is let through alone.
    pub buffer: usize,
    /// The largest message that is taken. PostgreSQL itself sends none of
    /// 1 GiB or more.
    pub message: usize,
    /// How long the consumer may hold the reader back, all told, before the
    /// server is asked whether it is stopping. A walsender that is stopped
    /// while we do not read cannot tell us on the stream: what it says lies
    /// behind what is not read.
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

/// Where a stream stands, for people and for feedback.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) received: AtomicU64,
    pub(super) confirmed: AtomicU64,
}

/// Changes as they come. Dropping it closes the connection at once.
#[derive(Debug)]
pub struct ReplicationStream {
    segments: mpsc::UnboundedReceiver<Result<Segment, Error>>,
    acknowledger: Acknowledger,
    progress: Arc<Progress>,
    stop: CancellationToken,
    // Aborted when dropped, which closes the socket.
    reader: JoinSet<()>,
}

/// Tells a stream what will never be asked for again.
#[derive(Clone, Debug)]
pub struct Acknowledger(Arc<watch::Sender<Lsn>>);

impl Acknowledger {
    /// Everything up to `lsn` is safe: the server may forget it. A place that
    /// does not rise changes nothing; one that was not received yet waits
    /// until it is.
    pub fn acknowledge(&self, lsn: Lsn) {
        self.0.send_if_modified(|place| {
            let rises = lsn > *place;
            *place = lsn.max(*place);
            rises
        });
    }
}

impl ReplicationStream {
    /// Starts the reader on a connection that has just gone into CopyBoth.
    pub(super) fn run(
        stream: Stream,
        buffer: BytesMut,
        server: (Target, Login),
        feedback_every: Duration,
        limits: Limits,
    ) -> Self {
        let (out, segments) = mpsc::unbounded_channel();
        let (places, acknowledged) = watch::channel(Lsn::ZERO);
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
        let acknowledger = Acknowledger(Arc::new(places));
        ReplicationStream {
            segments,
            acknowledger,
            progress,
            stop,
            reader,
        }
    }

    /// The next segment; an error is the last thing that comes. Safe to
    /// cancel.
    pub async fn next(&mut self) -> Option<Result<Segment, Error>> {
        self.segments.recv().await
    }

    /// What acknowledges on this stream.
    pub fn acknowledger(&self) -> Acknowledger {
        self.acknowledger.clone()
    }

    /// See [`Acknowledger::acknowledge`].
    pub fn acknowledge(&self, lsn: Lsn) {
        self.acknowledger.acknowledge(lsn);
    }

    /// How far the server's log was received.
    pub fn received(&self) -> Lsn {
        Lsn::new(self.progress.received.load(Ordering::Relaxed))
    }

    /// The last flush place that the server was told.
    pub fn confirmed(&self) -> Lsn {
        Lsn::new(self.progress.confirmed.load(Ordering::Relaxed))
    }

    /// Ends the stream in good order: what was acknowledged is told to the
    /// server, which then ends the copy, or is cut off after the grace.
    pub async fn close(mut self) {
        self.stop.cancel();
        while self.reader.join_next().await.is_some() {}
    }
}
