//! Where servers come from.

pub mod local;
#[cfg(feature = "failpoints")]
pub mod simulated;
