//! Execution of long operations.

use std::{ops::RangeInclusive, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Problem, duration,
    problem::{bound, require},
};

/// Bounds of a lease: a shorter one is lost in an ordinary pause of the machine.
const LEASE: RangeInclusive<Duration> = Duration::from_secs(1)..=duration::HOUR;

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
        let bounds = [
            ("operations.lease", self.lease, &LEASE),
            (
                "operations.scan_interval",
                self.scan_interval,
                &duration::WAIT,
            ),
            ("operations.retention", self.retention, &duration::KEPT),
            (
                "operations.idempotency_retention",
                self.idempotency_retention,
                &duration::KEPT,
            ),
        ];
        for (key, value, range) in bounds {
            bound(problems, key, value, range);
        }
        let mut require = |holds, key, message| require(problems, holds, key, message);
        require(
            self.workers > 0,
            "operations.workers",
            "must be more than 0",
        );
        // A replay within the remembered time answers with the first operation.
        require(
            self.retention >= self.idempotency_retention
                || !duration::KEPT.contains(&self.idempotency_retention),
            "operations.retention",
            "must not be less than operations.idempotency_retention",
        );
    }
}
