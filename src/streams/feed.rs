//! The batches of a subscription, and the task that makes them.

use std::task::{Context, Poll};

use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    domain::{Error, Reason, Result},
    pb::v1::ChangeBatch,
};

/// Batches that wait for the subscriber. While it is full the reader is held back.
const DEPTH: usize = 2;

/// The batches of a subscription. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Feed {
    batches: mpsc::Receiver<Result<ChangeBatch>>,
    // Aborted when dropped.
    _pump: JoinSet<()>,
}

impl Feed {
    /// Runs `work` until it ends or `stop` says why it has to, and passes on what it
    /// sends and how it ends. `guard` is dropped as soon as the work has gone, however
    /// that comes and whether or not the subscriber reads.
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
                // Without a receiver there is nobody to tell.
                let _ = sender.send(Err(error)).await;
            }
        });
        Self {
            batches,
            _pump: pump,
        }
    }

    /// The next batch, heartbeats included; an error is the last thing that comes.
    pub async fn next(&mut self) -> Option<Result<ChangeBatch>> {
        self.batches.recv().await
    }

    /// As [`Feed::next`], for use as a stream.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<ChangeBatch>>> {
        self.batches.poll_recv(context)
    }
}

/// Where a pump sends its batches.
#[derive(Debug)]
pub(super) struct Output(mpsc::Sender<Result<ChangeBatch>>);

impl Output {
    pub(super) async fn send(&mut self, batch: ChangeBatch) -> Result<()> {
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
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let work = |mut out: Output| async move {
            loop {
                out.send(ChangeBatch::default()).await?;
            }
        };
        let stop = async {
            told.await.unwrap();
            Error::new(Reason::ShuttingDown, "over")
        };
        let mut feed = Feed::start(work, stop, Guard(Some(dropped)));
        assert!(feed.next().await.unwrap().is_ok());
        tell.send(()).unwrap();
        // Nobody reads.
        seen.await.unwrap();
        let mut last = None;
        while let Some(next) = feed.next().await {
            last = Some(next);
        }
        assert_eq!(last.unwrap().unwrap_err().reason(), Reason::ShuttingDown);
    }
}
