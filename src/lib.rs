//! Howdah: a gRPC control plane for PostgreSQL.
//!
//! `docs/ARCHITECTURE.md` describes the rooms of the code and which of them may use which.
//! `tests/house/arrows.rs` checks that.

pub mod accept;
pub mod admin;
pub mod api;
pub mod app;
pub mod auth;
pub mod bootstrap;
pub mod cli;
pub mod client;
pub mod config;
pub mod domain;
pub mod failpoint;
pub mod pb;
pub mod pg;
pub mod providers;
pub mod store;
pub mod streams;
pub mod telemetry;
