//! Migrations: forward only, under PostgreSQL's advisory lock.

use sqlx::{
    Connection as _, PgConnection,
    migrate::{MigrateError, Migrator},
    postgres::PgConnectOptions,
};

use super::Store;
use crate::domain::{Error, Reason, Result};

static MIGRATOR: Migrator = {
    let mut migrator = sqlx::migrate!("./migrations");
    // A newer release may have migrated already: releases roll.
    migrator.ignore_missing = true;
    migrator
};

/// Whether this program has a migration of that version.
#[must_use]
pub fn knows(version: i64) -> bool {
    MIGRATOR.version_exists(version)
}

impl Store {
    /// Applies the migrations that are missing. Safe to run from many processes at
    /// once: they wait for one another, for as long as it takes. The bounds of calls do
    /// not hold for that, hence the connection of its own.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE; METADATA_SCHEMA_MISMATCH when an applied migration is
    /// not the one that this program has.
    pub async fn migrate(&self) -> Result<()> {
        let unbounded = [("statement_timeout", "0"), ("lock_timeout", "0")];
        let options = PgConnectOptions::clone(&self.pool.connect_options()).options(unbounded);
        let limit = self.pool.options().get_acquire_timeout();
        let connecting = tokio::time::timeout(limit, PgConnection::connect_with(&options)).await;
        let connected = connecting.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        let mut connection = connected.map_err(super::fault::classify)?;
        let migrated = MIGRATOR.run(&mut connection).await;
        let _ = connection.close().await;
        migrated.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                super::fault::classify(error)
            }
            MigrateError::VersionMismatch(version) => mismatch(version).with_source(error),
            MigrateError::Dirty(version) => mismatch(version).with_source(error),
            error => Error::internal("migration failed").with_source(error),
        })
    }
}

fn mismatch(version: i64) -> Error {
    Error::new(
        Reason::MetadataSchemaMismatch,
        format!("migration {version} of the metadata database is not the one of this program"),
    )
}
