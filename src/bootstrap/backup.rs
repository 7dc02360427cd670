//! `howdah metadata backup`: writes the embedded metadata into one file.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use super::{
    Shutdown,
    data_dir::DataDir,
    keys,
    metadata::{embedded_options, of_embedded},
    output_file::OutputFile,
};
use crate::{
    config::Config,
    domain::{Error, Reason, Result},
    providers::local::embedded::{Absent, Embedded, refuse_absent},
};

/// Longest wait for a process that has locked the data directory and is just starting or ending.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// Where to write a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// Result of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Length of the file in bytes; none for standard output.
    pub bytes: Option<u64>,
    /// File with the key that is needed to use the backup; none if the key is in the
    /// configuration.
    pub secret_key: Option<PathBuf>,
    /// Whether that file exists.
    pub secret_key_present: bool,
    /// What is wrong with the mode of that file.
    pub secret_key_exposed: Option<String>,
}

/// Writes a backup of the embedded metadata. A process may be serving from it. An existing file
/// is replaced only with `force`.
///
/// # Errors
/// CONFIG_INVALID for a metadata database that is not embedded; METADATA_NOT_FOUND,
/// BACKUP_EXISTS, BACKUP_UNWRITABLE, TOOL_MISSING, METADATA_UNAVAILABLE, DISK_FULL;
/// OPERATION_CANCELLED when it was interrupted.
pub async fn backup(config: Config, to: Destination, force: bool) -> anyhow::Result<Backup> {
    refuse_external(&config)?;
    let mut shutdown = Shutdown::new()?;
    let output = match &to {
        Destination::Stdout => None,
        Destination::File(path) => Some(OutputFile::create(path, force)?),
    };
    let written = match &output {
        None => Stdio::inherit(),
        Some(output) => Stdio::from(output.file()?),
    };
    let source = tokio::select! {
        biased;
        () = shutdown.asked() => return Err(interrupted().into()),
        source = Box::pin(Source::reach(&config)) => source?,
    };
    let dump = async {
        refuse_empty(&source.embedded).await?;
        source.embedded.dump(written).await
    };
    let dumped = tokio::select! {
        biased;
        () = shutdown.asked() => Err(interrupted()),
        dumped = dump => dumped,
    };
    let closed = source.close().await;
    dumped?;
    let bytes = output.map(OutputFile::finish).transpose()?;
    closed?;
    let secret_key = keys::file(&config);
    Ok(Backup {
        bytes,
        secret_key_exposed: keys::exposed(&config),
        secret_key_present: secret_key.as_deref().is_none_or(std::path::Path::exists),
        secret_key,
    })
}

/// The embedded server that a command reads from.
pub(super) struct Source {
    pub(super) embedded: Embedded,
    /// The lock on the data directory, if this process has started or adopted the server.
    locked: Option<DataDir>,
}

impl Source {
    /// Connects to the server of the process that serves. If no process does, starts the server.
    pub(super) async fn reach(config: &Config) -> Result<Self> {
        let options = embedded_options(config, Absent::Refuse);
        refuse_absent(&config.data_dir)?;
        let end = Instant::now() + PATIENCE;
        loop {
            match DataDir::open(&config.data_dir) {
                Ok(locked) => {
                    let embedded = Embedded::open(options).await?;
                    let locked = Some(locked);
                    return Ok(Self { embedded, locked });
                }
                Err(error) if error.reason() == Reason::DataDirInUse => {}
                Err(error) => return Err(error),
            }
            if let Some(embedded) = Embedded::attach(&options).await? {
                let locked = None;
                return Ok(Self { embedded, locked });
            }
            if Instant::now() > end {
                let message = format!(
                    "another process uses {}, but the metadata server does not run",
                    config.data_dir.display()
                );
                return Err(Error::new(Reason::MetadataUnavailable, message));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Stops the server, unless another process serves from it.
    pub(super) async fn close(self) -> Result<()> {
        match self.locked {
            Some(_) => self.embedded.stop().await,
            None => Ok(()),
        }
    }
}

/// Refuses metadata without tables, because a restore would refuse a backup of it.
async fn refuse_empty(embedded: &Embedded) -> Result<()> {
    let applied = migrations(&of_embedded(&embedded.access())).await;
    let applied = applied.map_err(|error| {
        let message = "the metadata cannot be read";
        Error::new(Reason::MetadataUnavailable, message).with_source(error)
    })?;
    if !applied.is_empty() {
        return Ok(());
    }
    let message = "there is nothing to back up yet: the metadata has not been served";
    Err(Error::new(Reason::MetadataNotFound, message))
}

/// Versions of the migrations that a database has, the newest first.
pub(super) async fn migrations(options: &PgConnectOptions) -> Result<Vec<i64>, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    let sql = "select to_regclass('public._sqlx_migrations') is not null";
    let present: bool = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
    let sql = "select version from public._sqlx_migrations order by version desc";
    let applied = match present {
        true => sqlx::query_scalar(sql).fetch_all(&mut connection).await?,
        false => Vec::new(),
    };
    connection.close().await?;
    Ok(applied)
}

/// Returns an error if the metadata database is not embedded.
pub(super) fn refuse_external(config: &Config) -> Result<()> {
    if config.database_url.is_none() {
        return Ok(());
    }
    let message = "`howdah metadata` is for the embedded metadata: back the database of \
         HOWDAH_DATABASE_URL up with its own tools, see docs/metadata.md";
    Err(Error::new(Reason::ConfigInvalid, message).with_field("database_url"))
}

/// The error of a command that a signal has ended.
pub(super) fn interrupted() -> Error {
    Error::new(
        Reason::OperationCancelled,
        "interrupted: nothing was changed",
    )
}
