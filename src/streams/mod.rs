//! The change-stream pipeline: from a server's log to batches of changes.
//!
//! `preflight` checks a request before anything is created. `publication` and `slot` create what a
//! subscription needs on the server. `pump` reads the log, `relation` keeps the tables' schemas,
//! `encode` and `batch` build encoded messages, and `feed` queues them for the subscriber.
//!
//! `watch` looks at the catalogs for what the log does not say. It writes what it finds into the
//! log, as a message of Howdah's own (`note`): so the pump learns of it in the order of the log.

mod batch;
mod catalog;
mod durable;
mod element;
mod encode;
mod fault;
mod feed;
mod note;
mod plain;
mod position;
mod preflight;
mod publication;
mod pump;
mod relation;
mod session;
mod slot;
mod watch;
mod wire;

use std::time::Duration;

use uuid::Uuid;

pub use durable::{Durable, follow};
pub use feed::Feed;
pub use publication::publish;
pub use slot::Opening;

pub use crate::pb::EncodedBatch;

use crate::{
    domain::postgres::{PostgresName, TableName},
    pg::{Login, Target},
};

/// What is published of tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Publish {
    /// All events of tables with a usable replica identity, inserts and truncates of the others.
    #[default]
    All,
    /// Inserts and truncates.
    Inserts,
}

/// What to do when what is followed is not any more what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnChange {
    /// End the stream, after the changes from before.
    #[default]
    End,
    /// Go on with what the name means now, after a marker.
    Follow,
}

/// What to do with a change that no message can hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LargeChanges {
    /// End the stream.
    #[default]
    End,
    /// Send it in parts.
    Fragments,
    /// Leave it out, and send a marker.
    Skip,
}

/// What a subscriber asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Tables, or none with a publication.
    pub tables: Vec<TableName>,
    /// A publication that exists, or none with tables.
    pub publication: Option<PostgresName>,
    /// What is published of the tables.
    pub publish: Publish,
    /// What to do when a table was replaced or the publication was changed.
    pub on_change: OnChange,
    /// Columns of the key of each table that has them all.
    pub key_columns: Vec<String>,
    /// Values in PostgreSQL's binary form where the type has one.
    pub binary: bool,
    /// Size in bytes at which a batch is cut.
    pub max_batch_bytes: usize,
    /// Longest time between two batches; an empty one is sent when nothing has changed.
    pub heartbeat: Duration,
    /// What to do with a change that no message can hold.
    pub large_changes: LargeChanges,
}

/// Where a subscription reads from, and the names of what it may create there.
#[derive(Clone, Debug)]
pub struct Source {
    /// Unique id of the subscription.
    pub uid: Uuid,
    /// By which the notes of its watch are known in the log.
    pub secret: Uuid,
    /// How to reach the server.
    pub target: Target,
    /// As whom to log in, to the database of the tables.
    pub login: Login,
    /// Name of its slot. Its publications have this name with a suffix.
    pub slot: String,
}
