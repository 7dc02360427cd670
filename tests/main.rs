//! Tests against the real program and real servers: one binary, a module per subject.
#![expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test binary exports nothing, and a panic is how a test fails"
)]

mod cli;
mod edge;
mod house;
mod pg;
mod providers;
mod service;
mod serving;
mod soak;
mod streams;
mod support;
