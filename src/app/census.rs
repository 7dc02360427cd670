//! Counts resources and operations, for the metrics.

use std::time::Duration;

use super::tasks::{Tasks, warn};
use crate::{store::Store, telemetry::census};

/// Pause between two counts.
const INTERVAL: Duration = Duration::from_secs(10);

/// Counts resources and operations while somebody reads the metrics. Cheap to clone.
#[derive(Clone)]
pub(super) struct Counting {
    pub(super) store: Store,
    pub(super) tasks: Tasks,
}

impl Counting {
    /// Runs until the process stops. Counts at once, so that the first reading has numbers.
    pub(super) async fn run(self) {
        loop {
            let counted = self.store.census().await;
            // After a failure no numbers are shown, because the old ones may be wrong.
            census::publish(counted.as_ref().ok().cloned());
            warn("counting for the metrics", counted);
            if self.tasks.stops_within(INTERVAL).await {
                return;
            }
            tokio::select! {
                () = self.tasks.stopping() => return,
                () = census::was_read() => {}
            }
        }
    }
}
