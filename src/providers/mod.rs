//! Where servers come from.

pub mod local;
#[cfg(feature = "failpoints")]
pub mod simulated;

use crate::domain::provider::Failpoints;

/// The failpoints of each provider.
pub const FAILPOINTS: &[Failpoints] = &[
    Failpoints {
        provider: local::NAME,
        all: local::FAILPOINTS,
        towards: local::towards,
    },
    #[cfg(feature = "failpoints")]
    Failpoints {
        provider: simulated::NAME,
        all: simulated::FAILPOINTS,
        towards: simulated::towards,
    },
];
