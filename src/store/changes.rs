//! Notifications of changed operations, on a connection of their own.

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

/// Channel of the ids of changed operations.
pub(super) const CHANNEL: &str = "howdah_operations";

/// After this long without a notification the server is asked whether it is still there.
const ASK_AFTER: Duration = Duration::from_secs(5);

/// Longest wait for its answer, and for the connection.
const LIMIT: Duration = Duration::from_secs(3);

/// Receives the ids of changed operations, of this process and of others.
#[derive(Debug)]
pub struct Changes(PgListener);

impl Store {
    /// Listens for changed operations.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn operation_changes(&self) -> Result<Changes> {
        let listening = async {
            let options = self.pool.connector().options()?;
            // sqlx's listener takes its connection from a pool: this one has no other.
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
    /// The next changed operation; none when the notification cannot be read.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE: changes may have been missed.
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

    /// A host that vanished without a word would leave a listener waiting for ever.
    async fn ask(&mut self) -> Result<()> {
        let asking = timeout(LIMIT, sqlx::raw_sql("select").execute(&mut self.0)).await;
        let asked = async { asking.unwrap_or_else(|_| Err(timed_out())) };
        asked.named("changes.ask").await.map(|_| ())
    }
}
