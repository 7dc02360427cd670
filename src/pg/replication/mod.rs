//! Logical replication, as a client.
//!
//! A [`Connection`] runs replication commands and turns into a
//! [`ReplicationStream`], whose task of its own reads the socket, answers
//! keepalives and sends feedback whatever its consumer does. See
//! <https://www.postgresql.org/docs/current/protocol-replication.html>.

mod command;
mod connection;
mod duties;
mod feedback;
mod reader;
mod segment;
mod stream;

pub use command::{Origins, SlotOptions, Snapshot, StartOptions, Streaming};
pub use connection::{Canceller, Connection, CreatedSlot, Options, SystemInfo};
pub use segment::{Data, Item, Items, Segment};
pub use stream::{Acknowledger, Limits, ReplicationStream};
