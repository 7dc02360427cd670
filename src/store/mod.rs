//! The metadata database.
//!
//! Every query is checked at compile time against the migrations. `Store` is
//! concrete: its only backend is PostgreSQL, and tests have a real one.

pub mod databases;
pub mod fault;
pub mod hosts;
pub mod instances;
pub mod lease;
pub mod migrate;
pub mod operations;
pub mod requests;
pub mod roles;
pub mod sealing;
pub mod servers;
pub mod stages;
pub mod subscriptions;

use std::{ops::DerefMut, time::Duration};

use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use self::fault::Measured;
use crate::domain::{Error, Result};

/// A connection that was idle for longer is tested before it is used.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(1);

/// How the pool of metadata connections behaves.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most connections at once.
    pub max_connections: u32,
    /// Longest wait for a connection.
    pub acquire_timeout: Duration,
}

/// The metadata database.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
}

/// A transaction on the metadata; rolled back when it is dropped.
#[derive(Debug)]
pub struct Tx(Transaction<'static, Postgres>);

impl Store {
    /// A store over `options`; connections are made when they are needed.
    #[must_use]
    pub fn new(options: PgConnectOptions, settings: Settings) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections)
            .acquire_timeout(settings.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for < TEST_AFTER_IDLE {
                        return Ok(true);
                    }
                    Ok(connection.ping().await.is_ok())
                })
            })
            .connect_lazy_with(options);
        Self { pool }
    }

    /// Begins a transaction.
    ///
    /// It runs in a task of its own, because `Pool::begin` can give a connection
    /// back to the pool inside an open transaction when its future is dropped.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn begin(&self) -> Result<Tx> {
        let pool = self.pool.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "this is Store::begin; it outlives its caller"
        )]
        let task = tokio::spawn(async move { pool.begin().await });
        let begun = task
            .await
            .map_err(|error| Error::internal("begin").with_source(error))?;
        Ok(Tx(begun.map_err(fault::classify)?))
    }

    /// Answers whether the metadata database answers.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query_scalar!("select 1 as one")
            .fetch_one(&self.pool)
            .named("metadata.ping")
            .await?;
        Ok(())
    }

    /// Closes the pool and waits for its connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl Tx {
    /// Makes everything that was done in it durable.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE; then it is not known whether it was committed.
    pub async fn commit(self) -> Result<()> {
        self.0.commit().named("mod.commit").await
    }

    /// Takes back everything that was done in it.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE; it is rolled back all the same.
    pub async fn rollback(self) -> Result<()> {
        self.0.rollback().named("mod.rollback").await
    }

    /// The connection, to run a query on.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.0.deref_mut()
    }
}
