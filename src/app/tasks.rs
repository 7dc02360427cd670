//! The background tasks of this process, and their end.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    domain::{Error, Reason, Result},
    failpoint,
    telemetry::panics,
};

/// Pauses before a task is started again. The pause doubles each time, up to the longest. It is
/// reset when the task has run for as long as the longest pause.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A value that a call holds until all work that it has started has ended.
pub type Held = Arc<dyn Send + Sync>;

tokio::task_local! {
    /// The value that the present call holds.
    pub static HELD: Held;
}

/// Tracks mutations, workers and background tasks. Shutdown waits for them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    /// Cancelled to end workers and background tasks.
    stopping: CancellationToken,
    /// Cancelled to end streams and waiting calls.
    draining: CancellationToken,
}

impl Tasks {
    /// Starts a task that shutdown waits for.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tracker.spawn(task)
    }

    /// Like [`Tasks::spawn`], for callers outside the runtime.
    pub(super) fn spawn_on(&self, task: impl Future<Output = ()> + Send + 'static, on: &Handle) {
        self.tracker.spawn_on(task, on);
    }

    /// Runs a task to its end, even if the caller goes away. The task holds what the call holds.
    pub(super) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let span = tracing::Span::current();
        let held = HELD.try_with(Held::clone).ok();
        let work = async move {
            let _held = held;
            work.await
        };
        let task = self.spawn(tracing::Instrument::instrument(work, span));
        task.await
            .map_err(|error| Error::internal("a mutation ended").with_source(error))?
    }

    /// Runs a task until the process stops. A task that panics or ends is started again. A
    /// failpoint of that name lets a test make it panic.
    pub(super) fn keep_running<T, F>(&self, name: &'static str, of: &T, task: fn(T) -> F)
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (tasks, of) = (self.clone(), of.clone());
        self.spawn(async move { tasks.run_again(name, of, task).await });
    }

    async fn run_again<T: Clone, F: Future<Output = ()>>(
        &self,
        name: &'static str,
        of: T,
        task: fn(T) -> F,
    ) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let run = async {
                failpoint::hit(name);
                task(of.clone()).await;
            };
            let ended = AssertUnwindSafe(run).catch_unwind().await;
            if self.stopping.is_cancelled() {
                return;
            }
            if begun.elapsed() >= LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            let (panicked, seconds) = (ended.is_err(), pause.as_secs_f64());
            tracing::error!(
                task = name,
                panicked,
                seconds,
                "a background task is started again"
            );
            panics::count_restart(name);
            if self.stops_within(pause).await {
                return;
            }
            pause = LONGEST_PAUSE.min(2 * pause);
        }
    }

    /// Waits for `interval`. Returns `true` at once if the process stops.
    pub(super) async fn stops_within(&self, interval: Duration) -> bool {
        let stopped = tokio::time::timeout(interval, self.stopping.cancelled());
        stopped.await.is_ok()
    }

    /// Returns when workers and background tasks shall end.
    pub(super) async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Whether workers and background tasks shall end.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Cancelled when streams and waiting calls shall end.
    pub(super) fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Ends streams and waiting calls with SHUTTING_DOWN. Returns at once.
    pub(super) fn drain(&self) {
        self.draining.cancel();
    }

    /// Ends all tasks within `limit`.
    pub(super) async fn stop(&self, limit: Duration) {
        self.draining.cancel();
        self.stopping.cancel();
        self.tracker.close();
        if tokio::time::timeout(limit, self.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!("tasks were still running at the end of the drain");
        }
    }
}

/// The error of streams and waiting calls at shutdown.
#[must_use]
pub fn shutting_down() -> Error {
    Error::new(Reason::ShuttingDown, "the server shuts down")
        .with_retry_after(Duration::from_secs(1))
}

/// Logs a failure of work that will be tried again.
pub(super) fn warn<T>(what: &'static str, done: Result<T>) {
    if let Err(error) = done {
        tracing::warn!(what, %error, detail = error.internal_detail(), "housekeeping failed");
    }
}
