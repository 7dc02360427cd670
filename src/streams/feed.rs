//! The queue of batches between the task that reads the log and the subscriber.

use std::task::{Context, Poll};

use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    domain::{Error, Reason, Result},
    pb::EncodedBatch,
};

/// Capacity of the queue in batches. While it is full, the reader waits.
const DEPTH: usize = 2;

/// The batches of a subscription. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Feed {
    batches: mpsc::Receiver<Result<EncodedBatch>>,
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
            _pump: pump,
        }
    }

    /// The next batch, heartbeats included. Nothing follows an error.
    pub async fn next(&mut self) -> Option<Result<EncodedBatch>> {
        self.batches.recv().await
    }

    /// As [`Feed::next`], for use as a stream.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<EncodedBatch>>> {
        self.batches.poll_recv(context)
    }
}

/// Where a pump sends its batches.
#[derive(Debug)]
pub(super) struct Output(mpsc::Sender<Result<EncodedBatch>>);

impl Output {
    pub(super) async fn send(&mut self, batch: EncodedBatch) -> Result<()> {
        let gone = |_| Error::new(Reason::StreamLost, "the subscriber is gone");
        self.0.send(Ok(batch)).await.map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(feed.next().await.unwrap().is_ok());
        end.send(()).unwrap();
        // The subscriber does not read.
        seen.await.unwrap();
        let mut last = None;
        while let Some(next) = feed.next().await {
            last = Some(next);
        }
        assert_eq!(last.unwrap().unwrap_err().reason(), Reason::ShuttingDown);
    }
}
