//! What tests stand on: real servers and the real program.

pub mod howdah;
pub mod local;
pub mod ports;
pub mod postgres;
pub mod proxy;
