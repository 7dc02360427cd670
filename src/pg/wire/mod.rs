//! PostgreSQL's wire protocol, version 3, from the client's side.
//!
//! Everything a server sends is outside input: lengths are checked against a
//! bound before memory is taken, and access is checked throughout. See
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

mod auth;
pub mod backend;
mod channel;
mod cursor;
pub mod frame;
mod startup;

pub use channel::Channel;
pub use cursor::{Cursor, Malformed};
pub use frame::{Frame, Piece, Scanner};
pub use startup::{BackendKey, Session, cancel, is_shutting_down, log_in};
