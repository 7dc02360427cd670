//! PostgreSQL tools that know nothing of Howdah.
//!
//! Two ways lead to a server, both over a stream that [`connect::open`] makes
//! (TCP, Unix socket, TLS): [`client`] for ordinary SQL through
//! tokio-postgres, and [`replication`] for logical decoding through our own
//! [`wire`] module.

pub mod client;
pub mod connect;
pub mod error;
pub mod lsn;
pub mod pgoutput;
pub mod replication;
pub mod scram;
pub mod sql;
pub mod tls;
pub mod wire;

pub use client::{Canceller, Client};
pub use connect::{Host, Login, Stream, Target, open};
pub use error::{Error, ServerError};
pub use lsn::Lsn;
pub use tls::{Roots, Tls};
