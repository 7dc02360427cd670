//! Migrations. They only go forward, under PostgreSQL's advisory lock.

use std::time::Duration;

use sqlx::{
    Connection as _, PgConnection,
    migrate::{MigrateError, Migrator},
};

use super::{
    Store,
    connect::{Connector, timed_out},
    fault::{answered, classify},
};
use crate::domain::{Error, Reason, Result};

/// Longest wait for a lock, above all that of another process that migrates. The caller retries.
const LOCK_TIMEOUT: &str = "30s";

/// How often to check that the server still answers.
const LOOK: Duration = Duration::from_secs(5);

/// Number of checks in a row without an answer that end the wait for a migration.
const MISSES: u32 = 3;

/// Longest wait for a connection to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

static MIGRATOR: Migrator = {
    let mut migrator = sqlx::migrate!("./migrations");
    // During a rolling update a newer release may have migrated already.
    migrator.ignore_missing = true;
    migrator
};

/// Whether this release has a migration of that version.
#[must_use]
pub fn knows(version: i64) -> bool {
    MIGRATOR.version_exists(version)
}

impl Store {
    /// Applies the missing migrations. Several processes may call it at once: they wait for each
    /// other. A migration may take as long as it needs, provided that the server answers on
    /// another connection. It therefore has a connection of its own, without a statement
    /// timeout.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE; LOCK_TIMEOUT when another process migrates for longer than 30 s;
    /// METADATA_UNSUITABLE; METADATA_SCHEMA_MISMATCH when an applied migration differs from the
    /// one in this release.
    pub async fn migrate(&self) -> Result<()> {
        let limit = self.pool.limits().acquire;
        let connector = self.pool.connector();
        let unbounded = connector
            .with("statement_timeout", "0")
            .with("lock_timeout", LOCK_TIMEOUT);
        let mut connection = unbounded.connect(limit).await.map_err(classify)?;
        tokio::select! {
            migrated = run(&mut connection) => migrated?,
            error = silence(connector) => return Err(classify(error)),
        }
        let _ = tokio::time::timeout(CLOSE_LIMIT, connection.close()).await;
        Ok(())
    }
}

async fn run(connection: &mut PgConnection) -> Result<()> {
    let migrated = MIGRATOR.run(connection).await;
    migrated.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => classify(error),
        MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => {
            mismatch(version).with_source(error)
        }
        error => Error::internal("migration failed").with_source(error),
    })
}

/// Returns when the server has not answered [`MISSES`] checks in a row.
async fn silence(connector: &Connector) -> sqlx::Error {
    let mut misses = 0;
    while misses < MISSES {
        tokio::time::sleep(LOOK).await;
        misses = match connector.connect(LOOK).await {
            Ok(_) => 0,
            Err(error) if answered(&error) => 0,
            Err(_) => misses + 1,
        };
    }
    timed_out()
}

fn mismatch(version: i64) -> Error {
    Error::new(
        Reason::MetadataSchemaMismatch,
        format!("migration {version} of the metadata database is not the one of this program"),
    )
}
