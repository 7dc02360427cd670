//! Notifications about changed operations, on a separate connection.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    Store,
    connect::timed_out,
    fault::{Measured, classify},
};
use crate::domain::Result;

/// Channel of the notifications; the payload is an operation's id.
pub(super) const CHANNEL: &str = "howdah_operations";

/// Time without a notification after which the connection is tested.
const ASK_AFTER: Duration = Duration::from_secs(5);

/// Longest wait for the result of the test, and for a connection.
const LIMIT: Duration = Duration::from_secs(3);

/// Receives the ids of operations that this or another process has changed.
#[derive(Debug)]
pub struct Changes(PgListener);

impl Store {
    /// Starts to listen for changed operations.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn operation_changes(&self) -> Result<Changes> {
        let listening = async {
            let options = self.pool.connector().options()?;
            // sqlx's listener takes its connection from a pool. This pool has only that
            // connection.
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(LIMIT)
                .max_lifetime(None)
                .idle_timeout(None)
                .test_before_acquire(false)
                .connect_lazy_with(options);
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        let listening = async {
            let limited = timeout(LIMIT, Box::pin(listening)).await;
            limited.unwrap_or_else(|_| Err(timed_out()))
        };
        listening.named("changes.listen").await.map(Changes)
    }
}

impl Changes {
    /// The next changed operation; none if the payload cannot be parsed.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE; changes may have been missed then.
    pub async fn next(&mut self) -> Result<Option<Uuid>> {
        loop {
            match timeout(ASK_AFTER, self.0.try_recv()).await {
                Ok(Ok(Some(notification))) => {
                    return Ok(Uuid::try_parse(notification.payload()).ok());
                }
                Ok(Ok(None)) => return Err(classify(sqlx::Error::PoolClosed)),
                Ok(Err(error)) => return Err(classify(error)),
                Err(_) => self.ask().await?,
            }
        }
    }

    /// Tests the connection. Without a test, a host that has vanished would not be noticed.
    async fn ask(&mut self) -> Result<()> {
        let asking = timeout(LIMIT, sqlx::raw_sql("select").execute(&mut self.0)).await;
        let asked = async { asking.unwrap_or_else(|_| Err(timed_out())) };
        asked.named("changes.ask").await.map(|_| ())
    }
}
