//! The gRPC edge over real sockets: what a client sees before and around a handler.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

mod admin;
mod calls;
mod certificates;
mod compression;
mod connections;
mod descriptors;
mod export;
mod fairness;
mod faults;
pub(crate) mod frames;
pub(crate) mod harness;
mod limits;
mod proxies;
mod public;
mod reflection;
mod resets;
mod service;
mod tls;
mod unread;
