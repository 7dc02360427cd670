//! The change-stream pipeline: from a server's log to batches of changes.
//!
//! It serves temporary subscriptions. `preflight` checks the request before anything is
//! created. `publication` and `slot` create what a subscription needs on the server. `pump`
//! reads the log, `relation` keeps the tables' schemas, `encode` and `batch` build messages,
//! and `feed` queues them for the subscriber. `replica_identity` watches the published tables.

mod batch;
mod encode;
mod fault;
mod feed;
mod plain;
mod position;
mod preflight;
mod publication;
mod pump;
mod relation;
mod replica_identity;
mod session;
mod slot;

use std::time::Duration;

use uuid::Uuid;

pub use feed::Feed;
pub use slot::Opening;

pub use crate::pb::v1::ChangeBatch;

use crate::{
    domain::postgres::{PostgresName, TableName},
    pg::{Login, Target},
};

/// What a subscriber asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Tables, or none with a publication.
    pub tables: Vec<TableName>,
    /// A publication that exists, or none with tables.
    pub publication: Option<PostgresName>,
    /// Columns of the key of each table that has them all.
    pub key_columns: Vec<String>,
    /// Values in PostgreSQL's binary form where the type has one.
    pub binary: bool,
    /// Size in bytes at which a batch is cut.
    pub max_batch_bytes: usize,
    /// Longest time between two batches; an empty one is sent when nothing has changed.
    pub heartbeat: Duration,
}

/// Where a temporary subscription reads from, and the names of what it may create there.
#[derive(Clone, Debug)]
pub struct Source {
    /// Identity of the subscription.
    pub uid: Uuid,
    /// How to reach the server.
    pub target: Target,
    /// As whom to log in, to the database of the tables.
    pub login: Login,
    /// Name of its slot.
    pub slot: String,
    /// Publication for tables that publish everything.
    pub publication: String,
    /// Publication for tables without replica identity: inserts and truncates only.
    pub insert_publication: String,
}
