//! The metadata database.
//!
//! Every query is checked at compile time against the migrations. `Store` is
//! concrete: its only backend is PostgreSQL, and tests have a real one.

pub mod audit;
mod batch;
mod census;
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

/// How much longer than the database itself a call waits for a statement's end: the
/// database cancels it before, unless it is out of reach.
const GRACE: Duration = Duration::from_secs(2);

/// How connections to the metadata behave.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most connections at once.
    pub max_connections: u32,
    /// Longest wait for a connection.
    pub acquire_timeout: Duration,
    /// Longest run of a statement; the database cancels a longer one.
    pub statement_timeout: Duration,
    /// Longest pause inside a transaction; the database ends a longer one.
    pub idle_in_transaction_timeout: Duration,
}

/// The metadata database.
#[derive(Clone, Debug)]
pub struct Store {
    pool: Pool,
    instance_reads: Batch<InstanceName, Recorded<Instance>>,
    operation_reads: Batch<Uuid, Operation>,
}

/// A transaction on the metadata; rolled back when it is dropped.
#[derive(Debug)]
pub struct Tx(Lease);

impl Store {
    /// The state of the pool of connections.
    #[must_use]
    pub fn pool_standing(&self) -> Standing {
        self.pool.standing()
    }

    /// A store over `options`; connections are made when they are needed.
    #[must_use]
    pub fn new(options: PgConnectOptions, settings: Settings) -> Self {
        Self::of_source(Arc::new(move || Ok(options.clone())), settings)
    }

    /// A store that asks `source` for the address and the login at each connection.
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

    /// Closes the connections that were idle for long.
    pub fn reap(&self) {
        self.pool.reap();
    }

    /// Refuses new calls, waits for those under way, and closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl Tx {
    /// Makes everything that was done in it durable.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE; then it is not known whether it was committed.
    pub async fn commit(mut self) -> Result<()> {
        self.0.commit().named("mod.commit").await
    }

    /// Takes back everything that was done in it.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE; it is rolled back all the same.
    pub async fn rollback(mut self) -> Result<()> {
        self.0.rollback().named("mod.rollback").await
    }

    /// The connection, to run a query on.
    pub(crate) fn connection(&mut self) -> &mut Lease {
        &mut self.0
    }
}
