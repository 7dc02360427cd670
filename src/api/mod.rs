//! The gRPC edge: listener, layers, conversions and one thin file per service.

mod admit;
mod answer;
mod asked;
pub mod audit;
pub(crate) mod budget;
pub mod change_streams;
mod convert;
pub mod databases;
mod ending;
mod fingerprint;
pub mod health;
pub mod instances;
pub mod layers;
pub mod listener;
pub mod method;
pub mod operations;
pub mod reflection;
pub mod server;
mod small;
pub mod status;
mod unread;
pub mod validate;
