//! Execution of long operations.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Problem, duration, problem::require};

/// Shortest lease: below, an ordinary pause of the machine would lose it.
const MIN_LEASE: Duration = Duration::from_secs(1);

/// Execution of long operations.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Operations {
    /// Most operations that this process works on at once.
    pub workers: usize,
    /// Time after which another process may take over from one that does not answer.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub lease: Duration,
    /// Pause between two looks for work that no notification announced.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub scan_interval: Duration,
    /// How long finished operations can be read.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub retention: Duration,
    /// How long a `request_id` is remembered.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub idempotency_retention: Duration,
}

impl Default for Operations {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            workers: 4,
            lease: Duration::from_secs(15),
            scan_interval: Duration::from_secs(5),
            retention: DAY * 30,
            idempotency_retention: DAY,
        }
    }
}

impl Operations {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let mut require = |holds, key, message| require(problems, holds, key, message);
        require(
            self.workers > 0,
            "operations.workers",
            "must be more than 0",
        );
        require(
            self.lease >= MIN_LEASE,
            "operations.lease",
            "must be 1s or more",
        );
        require(
            !self.scan_interval.is_zero(),
            "operations.scan_interval",
            "must be more than 0",
        );
        // A replay within the remembered time answers with the first operation.
        require(
            self.retention >= self.idempotency_retention,
            "operations.retention",
            "must not be less than operations.idempotency_retention",
        );
    }
}
