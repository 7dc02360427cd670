//! `howdah metadata restore`: replaces the embedded metadata by the contents of a backup.

use std::path::PathBuf;

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use super::{
    Shutdown,
    backup::{interrupted, migrations, refuse_external},
    data_dir::DataDir,
    keys,
    metadata::{embedded_options, fixed, of_embedded, store},
};
use crate::{
    config::Config,
    domain::{Error, Reason, Result, version::Version},
    providers::local::embedded::{
        Absent, Access, Archive, Embedded, FORMER, RESTORED, RESTORING, Trace, refuse_absent, trace,
    },
    store::{
        migrate,
        sealing::{Keyring, key_uses},
    },
};

/// Result of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Version of the PostgreSQL server that the backup was made from.
    pub taken_from: Version,
    /// Whether there was metadata before. It is kept.
    pub replaced: bool,
    /// Whether values in it are sealed with an older key, which the next start needs too.
    pub needs_former_key: bool,
}

/// Replaces the embedded metadata by the contents of a backup, or creates it. The former
/// metadata is kept until the next restore. After an error, a crash or a signal it is still in
/// use.
///
/// # Errors
/// CONFIG_INVALID for a metadata database that is not embedded; DATA_DIR_IN_USE,
/// BACKUP_INVALID, TOOL_MISSING, SECRET_KEY_INVALID, METADATA_SCHEMA_MISMATCH,
/// DISK_FULL; OPERATION_CANCELLED when it was interrupted.
pub async fn restore(config: Config, file: PathBuf) -> anyhow::Result<Restored> {
    refuse_external(&config)?;
    let mut shutdown = Shutdown::new()?;
    let options = embedded_options(&config, Absent::Make);
    let archive = Archive::open(&options, &file).await?;
    // Before anything is created: a missing key is an error here, and never created.
    let keyring = keys::present(&config)?;
    let replaced = trace(&config.data_dir)? == Trace::Present;
    let locked = DataDir::open(&config.data_dir)?;
    if !replaced {
        locked.replace(RESTORING, "")?;
    }
    let embedded = Box::pin(Embedded::open(options)).await?;
    let filled = tokio::select! {
        biased;
        () = shutdown.asked() => Err(interrupted()),
        filled = Box::pin(fill(&config, &embedded, &archive, &keyring)) => filled,
    };
    let exchanged = match filled {
        Ok(needs_former_key) => embedded.exchange().await.map(|()| needs_former_key),
        Err(error) => {
            if let Err(left) = embedded.discard_restore().await {
                tracing::warn!(error = %left, "the unfinished restore is dropped by the next one");
            }
            Err(error)
        }
    };
    let stopped = embedded.stop().await;
    let needs_former_key = exchanged?;
    locked.remove(RESTORING);
    stopped?;
    Ok(Restored {
        taken_from: archive.taken_from(),
        replaced,
        needs_former_key,
    })
}

/// Makes the metadata from before the last restore current again.
///
/// # Errors
/// METADATA_NOT_FOUND when there is nothing to put back; SECRET_KEY_INVALID when the key
/// does not open it; METADATA_SCHEMA_MISMATCH, CONFIG_INVALID, DATA_DIR_IN_USE.
pub async fn restore_former(config: Config) -> anyhow::Result<()> {
    refuse_external(&config)?;
    let options = embedded_options(&config, Absent::Refuse);
    refuse_absent(&config.data_dir)?;
    let keyring = keys::present(&config)?;
    let _locked = DataDir::open(&config.data_dir)?;
    let embedded = Box::pin(Embedded::open(options)).await?;
    let exchanged = async {
        embedded.find_former().await?;
        if !known_migrations(&database(&embedded, FORMER))
            .await?
            .is_empty()
        {
            opens(&config, database(&embedded, FORMER), &keyring).await?;
        }
        embedded.exchange_back().await
    };
    let exchanged = exchanged.await;
    let stopped = embedded.stop().await;
    exchanged?;
    Ok(stopped?)
}

/// Restores into a second database, migrates it to this release, and checks that the keys open
/// it. Returns whether an older key is needed for that.
async fn fill(
    config: &Config,
    embedded: &Embedded,
    archive: &Archive,
    keyring: &Keyring,
) -> Result<bool> {
    embedded.prepare_restore().await?;
    embedded.load(archive, RESTORED).await?;
    let restored = database(embedded, RESTORED);
    if known_migrations(&restored).await?.is_empty() {
        let message = "the backup holds no metadata: it was taken before the first start";
        return Err(Error::new(Reason::BackupInvalid, message));
    }
    opens(config, restored, keyring).await?;
    needs_former_key(&database(embedded, RESTORED), keyring).await
}

/// Whether a value is sealed with another key than the one that this process seals with.
async fn needs_former_key(restored: &PgConnectOptions, keyring: &Keyring) -> Result<bool> {
    let unread = |error| Error::internal("keys of a backup").with_source(error);
    let connecting = PgConnection::connect_with(restored).await;
    let mut connection = connecting.map_err(unread)?;
    let uses = key_uses(&mut connection).await;
    // The exchange renames the database, which is possible only without sessions.
    connection.close().await.map_err(unread)?;
    let mut uses = uses?.into_iter();
    Ok(uses.any(|key| key.values > 0 && key.id != keyring.id()))
}

fn database(embedded: &Embedded, name: &str) -> PgConnectOptions {
    of_embedded(&Access {
        database: name.to_owned(),
        ..embedded.access()
    })
}

/// Migrates a database to this release, and checks that the keys open it.
async fn opens(config: &Config, options: PgConnectOptions, keyring: &Keyring) -> Result<()> {
    let store = store(config, fixed(options));
    let checked = async {
        store.migrate().await?;
        store.check_keys(keyring).await
    };
    let checked = checked.await;
    store.close().await;
    checked
}

/// The migrations of a database. Migrations of a newer release are refused, because a restore
/// must not hide what this release cannot read. This rule does not apply to processes that
/// serve: two releases may share a database.
async fn known_migrations(options: &PgConnectOptions) -> Result<Vec<i64>> {
    let applied = migrations(options).await.map_err(|error| {
        let message = "the migrations in the backup cannot be read";
        Error::new(Reason::BackupInvalid, message).with_source(error)
    })?;
    match applied.iter().find(|version| !migrate::knows(**version)) {
        None => Ok(applied),
        Some(version) => Err(Error::new(
            Reason::MetadataSchemaMismatch,
            format!(
                "the backup is of a newer Howdah: this program does not know its migration \
                 {version}"
            ),
        )),
    }
}
