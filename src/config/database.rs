//! Connections to the metadata database.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Problem, duration,
    problem::{bound, require},
};

/// Connections to the metadata database.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// Most connections of this process, beside one that listens for notifications and
    /// one that looks whether the database can be written.
    pub max_connections: u32,
    /// Longest wait for a free connection; then a call fails as METADATA_UNAVAILABLE.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub acquire_timeout: Duration,
    /// Longest statement; the database cancels a longer one.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub statement_timeout: Duration,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
        }
    }
}

impl Database {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        // One for a worker's long transaction, one for calls.
        require(
            problems,
            self.max_connections >= 2,
            "database.max_connections",
            "must be 2 or more",
        );
        let timeouts = [
            ("database.acquire_timeout", self.acquire_timeout),
            ("database.statement_timeout", self.statement_timeout),
        ];
        for (key, timeout) in timeouts {
            bound(problems, key, timeout, &duration::WAIT);
        }
    }
}
