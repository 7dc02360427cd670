//! Howdah: a gRPC control plane for PostgreSQL.
//!
//! The rooms of the house, and who may use whom, are described in
//! `docs/ARCHITECTURE.md`; `tests/house/arrows.rs` enforces it.

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
