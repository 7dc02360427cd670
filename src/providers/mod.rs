//! Where servers come from.

pub mod local;
