//! Migrations: forward only, under PostgreSQL's advisory lock.

use sqlx::migrate::{MigrateError, Migrator};

use super::Store;
use crate::domain::{Error, Reason, Result};

static MIGRATOR: Migrator = {
    let mut migrator = sqlx::migrate!("./migrations");
    // A newer release may have migrated already: releases roll.
    migrator.ignore_missing = true;
    migrator
};

impl Store {
    /// Applies the migrations that are missing. Safe to run from many processes at
    /// once: they wait for one another.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE; METADATA_SCHEMA_MISMATCH when an applied migration is
    /// not the one that this program has.
    pub async fn migrate(&self) -> Result<()> {
        MIGRATOR.run(&self.pool).await.map_err(|error| match error {
            MigrateError::Execute(error) => super::fault::classify(error),
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
