//! Pure types, names, rules and ports: no I/O and no runtime.

pub mod access;
pub mod audit;
pub mod change_stream;
pub mod clock;
pub mod database;
pub mod engine;
pub mod error;
pub mod filter;
pub mod host;
pub mod instance;
pub mod list;
pub mod name;
pub mod operation;
pub mod postgres;
pub mod principal;
pub mod provider;
pub mod random;
pub mod reason;
pub mod recorded;
pub mod server_log;
pub mod sqlstate;
pub(crate) mod states;
pub mod token;
pub mod version;

pub use error::Error;
pub use reason::{Kind, Reason};

/// Result of everything that can fail in Howdah's own terms.
pub type Result<T, E = Error> = std::result::Result<T, E>;
