//! Records of who did what.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Problem, duration, problem::bound};

/// Records of who did what.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// How long it is kept on record who changed what, and who read which secret.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub retention: Duration,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(400 * 86_400),
        }
    }
}

impl Audit {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        bound(problems, "audit.retention", self.retention, &duration::KEPT);
    }
}
