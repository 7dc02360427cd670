//! The metadata database.
//!
//! Every query is checked at compile time against the migrations. `Store` is a concrete type:
//! PostgreSQL is its only backend, and the tests use a real one.

pub mod audit;
mod batch;
mod census;
pub mod change_streams;
pub mod changes;
mod connect;
pub mod databases;
mod executor;
mod family;
pub mod fault;
pub mod hosts;
mod instance_states;
pub mod instances;
pub mod lease;
pub mod leases;
pub mod listing;
pub mod migrate;
pub mod operations;
mod pool;
pub mod probe;
pub mod processes;
pub mod queued;
mod release;
pub mod requests;
pub mod roles;
pub mod sealing;
pub mod servers;
pub mod stages;
pub mod subscriptions;
mod turns;
mod unreadable;

use std::{sync::Arc, time::Duration};

use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

pub use self::connect::Source;
use self::{
    batch::Batch,
    connect::Connector,
    fault::Measured,
    pool::{Lease, Limits, Pool},
};
use crate::{
    domain::{
        Result, instance::Instance, name::InstanceName, operation::Operation, recorded::Recorded,
    },
    telemetry::pool::Standing,
};

/// How much longer than the statement timeout a call waits. The database cancels the statement
/// first, unless it cannot be reached.
const GRACE: Duration = Duration::from_secs(2);

/// Limits of the connections to the metadata.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most connections at once.
    pub max_connections: u32,
    /// Longest wait for a connection from the pool.
    pub acquire_timeout: Duration,
    /// Longest run of a statement; the database cancels it after that time.
    pub statement_timeout: Duration,
    /// Longest idle time inside a transaction; the database ends the session after that time.
    pub idle_in_transaction_timeout: Duration,
}

/// The metadata database.
#[derive(Clone, Debug)]
pub struct Store {
    pool: Pool,
    instance_reads: Batch<InstanceName, Recorded<Instance>>,
    operation_reads: Batch<Uuid, Operation>,
}

/// A transaction on the metadata. Dropping it rolls it back.
#[derive(Debug)]
pub struct Tx(Lease);

impl Store {
    /// State of the connection pool, for metrics.
    #[must_use]
    pub fn pool_standing(&self) -> Standing {
        self.pool.standing()
    }

    /// Creates a store for `options`. Connects when the first call needs a connection.
    #[must_use]
    pub fn new(options: PgConnectOptions, settings: Settings) -> Self {
        Self::of_source(Arc::new(move || Ok(options.clone())), settings)
    }

    /// Creates a store that asks `source` for address and login before each connection.
    #[must_use]
    pub fn of_source(source: Source, settings: Settings) -> Self {
        let connector = Connector::new(
            source,
            settings.statement_timeout,
            settings.idle_in_transaction_timeout,
        );
        let limits = Limits {
            connections: settings.max_connections,
            acquire: settings.acquire_timeout,
            call: settings.statement_timeout + GRACE,
        };
        Self {
            pool: Pool::new(connector, limits),
            instance_reads: Batch::default(),
            operation_reads: Batch::default(),
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn begin(&self) -> Result<Tx> {
        let begun = async {
            let mut lease = self.pool.acquire().await?;
            lease.begin().await?;
            Ok(lease)
        };
        begun.named("mod.begin").await.map(Tx)
    }

    /// Closes connections that have been idle for long.
    pub fn reap(&self) {
        self.pool.reap();
    }

    /// Refuses new calls, waits for running calls, and closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl Tx {
    /// Commits the transaction.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE; it is then unknown whether the transaction was committed.
    pub async fn commit(mut self) -> Result<()> {
        self.0.commit().named("mod.commit").await
    }

    /// Rolls the transaction back.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE; the transaction is rolled back nevertheless.
    pub async fn rollback(mut self) -> Result<()> {
        self.0.rollback().named("mod.rollback").await
    }

    /// The connection, for queries in this transaction.
    pub(crate) fn connection(&mut self) -> &mut Lease {
        &mut self.0
    }
}
