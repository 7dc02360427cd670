//! Background tasks: one that panics or ends is started again.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures::FutureExt as _;

use super::{App, housekeeping::stops};
use crate::{failpoint, telemetry::panics};

/// Pause before a task is started again: doubled each time, until it lasts as long as the
/// longest pause.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl App {
    /// Runs a task as long as the process serves. A test can let it panic at its beginning,
    /// by the failpoint of that name.
    pub(super) fn supervise<F>(&self, name: &'static str, task: fn(App) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(keep_running(self.clone(), name, task));
    }
}

async fn keep_running<F: Future<Output = ()>>(app: App, name: &'static str, task: fn(App) -> F) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let run = async {
            failpoint::hit(name);
            task(app.clone()).await;
        };
        let ended = AssertUnwindSafe(run).catch_unwind().await;
        if app.stopping.is_cancelled() {
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
        if stops(&app, pause).await {
            return;
        }
        pause = LONGEST_PAUSE.min(2 * pause);
    }
}
