//! Checks whether the metadata can be written, on a connection of its own. Connections of the
//! pool may all be in use, or may date from before an outage.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    Store,
    connect::{Connector, timed_out},
    fault::Measured,
    pool::Pool,
};
use crate::domain::{Reason, Result};

/// Longest wait for a connection, and for the answer to a write.
const LIMIT: Duration = Duration::from_secs(3);

/// Longest wait for a row lock. Shorter than [`LIMIT`], so that a lock is not taken for an
/// outage.
const LOCK_TIMEOUT: &str = "1s";

/// Updates the time at which this process was last seen, at each call.
#[derive(Debug)]
pub struct Probe {
    connector: Connector,
    pool: Pool,
    worker: Uuid,
    connection: Option<PgConnection>,
    connections: u64,
}

impl Store {
    /// Creates a probe for the process with that worker id.
    #[must_use]
    pub fn probe(&self, worker: Uuid) -> Probe {
        Probe {
            connector: self.pool.connector().with("lock_timeout", LOCK_TIMEOUT),
            pool: self.pool.clone(),
            worker,
            connection: None,
            connections: 0,
        }
    }
}

impl Probe {
    /// How many connections it has made. Each may lead to another database than the one
    /// before.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// Writes once. If the present connection fails, a new one is tried before the metadata
    /// counts as unavailable. Takes at most 15 s.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE, METADATA_UNSUITABLE.
    pub async fn look(&mut self) -> Result<()> {
        if let Some(connection) = self.connection.take()
            && self.write(connection).await.is_ok()
        {
            return Ok(());
        }
        // The connections of the pool may be dead for the same reason.
        self.pool.doubt();
        let connecting = self.connector.connect(LIMIT);
        let connection = connecting.named("probe.connect").await?;
        self.connections += 1;
        self.write(connection).await
    }

    async fn write(&mut self, mut connection: PgConnection) -> Result<()> {
        let writing = sqlx::query!(
            "update processes set seen_time = now() where worker = $1",
            self.worker
        );
        let writing = timeout(LIMIT, writing.execute(&mut connection));
        let written = async { writing.await.unwrap_or_else(|_| Err(timed_out())) };
        match written.named("probe.write").await {
            Ok(_) => {}
            Err(error) if error.reason() == Reason::LockTimeout => emit(&mut connection).await?,
            Err(error) => return Err(error),
        }
        if self.pool.disk_full() {
            allocate(&mut connection).await?;
            self.pool.set_disk_full(false);
        }
        self.connection = Some(connection);
        Ok(())
    }
}

/// Commits a WAL message, which needs no row lock. The row may be locked by a caller, or by an
/// earlier probe that waits for a synchronous standby.
async fn emit(connection: &mut PgConnection) -> Result<()> {
    let sql = "select pg_logical_emit_message(true, 'howdah', '')";
    let emitting = timeout(LIMIT, sqlx::raw_sql(sql).execute(connection));
    let emitted = async { emitting.await.unwrap_or_else(|_| Err(timed_out())) };
    emitted.named("probe.emit").await.map(|_| ())
}

/// Allocates new pages and frees them. An update of one row may find space in its page although
/// the disk is full for everyone else.
async fn allocate(connection: &mut PgConnection) -> Result<()> {
    let sql = "begin; create temporary table howdah_probe (text text) on commit drop;
        insert into howdah_probe select repeat('x', 1000) from generate_series(1, 500);
        commit";
    let allocating = timeout(LIMIT, sqlx::raw_sql(sql).execute(connection));
    let allocated = async { allocating.await.unwrap_or_else(|_| Err(timed_out())) };
    allocated.named("probe.allocate").await.map(|_| ())
}
