//! What tests stand on: real servers and the real program.

pub mod health;
pub mod howdah;
pub mod local;
pub mod metadata_server;
pub mod ports;
pub mod postgres;
pub mod proxy;
pub mod scratch;
pub mod small_disk;
pub mod templates;
