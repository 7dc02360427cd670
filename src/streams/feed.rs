//! The queue of batches between the task that reads the log and the subscriber.

use std::task::{Context, Poll};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::position::Position;
use crate::{
    domain::{Error, Reason, Result, change_stream},
    pb::EncodedBatch,
};

/// A batch, with the position that it ends at.
type Placed = (EncodedBatch, Position);

/// Capacity of the queue in batches. While it is full, the reader waits.
const DEPTH: usize = 2;

/// The batches of a subscription. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Feed {
    batches: mpsc::Receiver<Result<Placed>>,
    /// The end of the batch that was taken last.
    last: Position,
    /// What was taken by the connection, and followed by another batch that was taken.
    taken: watch::Sender<change_stream::Position>,
    // Aborted when dropped.
    _pump: JoinSet<()>,
}

impl Feed {
    /// Runs `work` until it ends, or until `stop` returns the reason to end it. The batches
    /// that it sends, and its error, arrive here. `guard` is dropped as soon as the work has
    /// been dropped, whatever ended it and whether or not the subscriber reads.
    pub(super) fn start<W, F>(
        work: W,
        stop: impl Future<Output = Error> + Send + 'static,
        guard: impl Send + 'static,
    ) -> Self
    where
        W: FnOnce(Output) -> F,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (sender, batches) = mpsc::channel(DEPTH);
        let work = work(Output(sender.clone()));
        let mut pump = JoinSet::new();
        pump.spawn(async move {
            // Declared first, so that it outlives the work when this task is aborted.
            let guard = guard;
            let ended = tokio::select! {
                ended = work => ended,
                error = stop => Err(error),
            };
            drop(guard);
            if let Err(error) = ended {
                // Fails only when the subscriber is gone.
                let _ = sender.send(Err(error)).await;
            }
        });
        Self {
            batches,
            last: Position::default(),
            taken: watch::Sender::default(),
            _pump: pump,
        }
    }

    /// Follows how far the connection has taken batches: up to the end of a batch when it takes
    /// the next one.
    #[must_use]
    pub fn taken(&self) -> watch::Receiver<change_stream::Position> {
        self.taken.subscribe()
    }

    /// The next batch, heartbeats included. Nothing follows an error.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<EncodedBatch>>> {
        let next = self.batches.poll_recv(context);
        next.map(|next| {
            next.map(|next| {
                let (batch, end) = next?;
                let before = std::mem::replace(&mut self.last, end);
                self.taken.send_replace(before.into());
                Ok(batch)
            })
        })
    }
}

/// Where a pump sends its batches.
#[derive(Debug)]
pub(super) struct Output(mpsc::Sender<Result<Placed>>);

impl Output {
    /// Sends the batch that ends at a position.
    pub(super) async fn send_at(&mut self, batch: EncodedBatch, position: Position) -> Result<()> {
        let gone = |_| Error::new(Reason::StreamLost, "the subscriber is gone");
        self.0.send(Ok((batch, position))).await.map_err(gone)
    }

    /// Sends a batch from before the first position.
    pub(super) async fn send(&mut self, batch: EncodedBatch) -> Result<()> {
        self.send_at(batch, Position::default()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(feed: &mut Feed) -> Option<Result<EncodedBatch>> {
        std::future::poll_fn(|context| feed.poll_next(context)).await
    }

    /// Says when it is dropped.
    struct Guard(Option<tokio::sync::oneshot::Sender<()>>);

    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(());
        }
    }

    #[tokio::test]
    async fn a_stalled_subscriber_keeps_nothing_alive_once_the_work_has_to_stop() {
        let (dropped, seen) = tokio::sync::oneshot::channel();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let work = |mut out: Output| async move {
            loop {
                out.send(EncodedBatch::default()).await?;
            }
        };
        let stop = async {
            ended.await.unwrap();
            Error::new(Reason::ShuttingDown, "over")
        };
        let mut feed = Feed::start(work, stop, Guard(Some(dropped)));
        assert!(next(&mut feed).await.unwrap().is_ok());
        end.send(()).unwrap();
        // The subscriber does not read.
        seen.await.unwrap();
        let mut last = None;
        while let Some(next) = next(&mut feed).await {
            last = Some(next);
        }
        assert_eq!(last.unwrap().unwrap_err().reason(), Reason::ShuttingDown);
    }
}
