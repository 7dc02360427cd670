//! The messages of the `pgoutput` plugin, protocols 1 to 4, read in place.
//!
//! See <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>.

mod decode;
mod message;
mod tuple;

#[cfg(test)]
mod tests;

pub use decode::Decoder;
pub use message::{
    Abort, Begin, Column, Commit, Delete, Insert, LogicalMessage, Message, Old, Origin,
    PrepareKind, Prepared, Relation, ReplicaIdentity, RolledBack, Truncate, Type, Update,
};
pub use tuple::{Tuple, Value, Values};
