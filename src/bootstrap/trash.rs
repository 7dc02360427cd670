//! `howdah trash`: the data of removed servers, and servers that no record knows.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    backup::Source,
    local_settings,
    metadata::{embedded_options, external, fixed, of_embedded, store},
};
use crate::{
    config::Config,
    domain::{Error, Reason, Result},
    providers::local::{
        Entry, Trash,
        embedded::{Absent, Embedded},
    },
    store::Source as Database,
};

/// Longest wait for metadata that need not be there.
const LIMIT: Duration = Duration::from_secs(5);

/// Lists the entries of the trash, the oldest first.
///
/// # Errors
/// SERVER_DATA_NOT_FOUND, CONFIG_INVALID, DATA_DIR_UNWRITABLE.
pub async fn trash_list(config: Config) -> anyhow::Result<Vec<Entry>> {
    Ok(open(&config)?.entries().await?)
}

/// The id of this host; none if there is no id, or if it belongs to another user.
#[must_use]
pub fn host_here(config: &Config) -> Option<Uuid> {
    open(config).ok()?.host().ok()?
}

/// Deletes the data of these servers; of all servers if none are named.
///
/// # Errors
/// SERVER_DATA_NOT_FOUND, CONFIG_INVALID, DATA_DIR_UNWRITABLE; LOCAL_ROOT_MISMATCH where the
/// metadata runs and the root belongs to other metadata.
pub async fn trash_empty(
    config: Config,
    only: Option<BTreeSet<Uuid>>,
) -> anyhow::Result<Vec<Entry>> {
    let trash = open(&config)?;
    refuse_other_metadata(&config, &trash).await?;
    Ok(trash.empty(only).await?)
}

/// Moves the data of a server from the trash back, and returns its path.
///
/// # Errors
/// SERVER_DATA_NOT_FOUND, SERVER_DATA_EXISTS, LOCK_TIMEOUT, CONFIG_INVALID,
/// DATA_DIR_UNWRITABLE.
pub async fn trash_restore(config: Config, uid: Uuid) -> anyhow::Result<PathBuf> {
    Ok(open(&config)?.restore(uid).await?)
}

/// Stops a server that no record knows, and moves its data to the trash.
///
/// # Errors
/// SERVER_ON_RECORD, SERVER_DATA_NOT_FOUND, LOCK_TIMEOUT, SERVER_NOT_STOPPED,
/// CONFIG_INVALID, DATA_DIR_UNWRITABLE; METADATA_UNAVAILABLE and METADATA_NOT_FOUND when the
/// metadata cannot say whether the server is on record.
pub async fn trash_throw(config: Config, uid: Uuid) -> anyhow::Result<()> {
    let trash = open(&config)?;
    let host = trash.host()?.ok_or_else(nothing)?;
    let unknown = async || {
        let records = records(&config, host).await?;
        trash.owner().verify(records.metadata)?;
        Ok((!records.servers.contains(&uid)).then_some(records.now))
    };
    Box::pin(trash.throw(uid, unknown)).await?;
    Ok(())
}

/// What the metadata says of a host, at one time.
pub(super) struct Records {
    /// The id of the metadata.
    pub(super) metadata: Uuid,
    /// The servers on record for the host.
    pub(super) servers: Vec<Uuid>,
    /// The metadata's time.
    now: DateTime<Utc>,
}

/// What the metadata says of a host. Starts the embedded metadata server if no process serves
/// from it.
pub(super) async fn records(config: &Config, host: Uuid) -> Result<Records> {
    if let Some(url) = &config.database_url {
        return read(config, external(url.clone())?, host).await;
    }
    let source = Box::pin(Source::reach(config)).await?;
    let database = fixed(of_embedded(&source.embedded.access()));
    let records = read(config, database, host).await;
    source.close().await?;
    records
}

/// Like [`records`], but starts nothing: none if the embedded metadata server does not run.
pub(super) async fn records_where_served(config: &Config, host: Uuid) -> Result<Option<Records>> {
    let database = match &config.database_url {
        Some(url) => external(url.clone())?,
        None => {
            let options = embedded_options(config, Absent::Refuse);
            match Box::pin(Embedded::attach(&options)).await? {
                Some(embedded) => fixed(of_embedded(&embedded.access())),
                None => return Ok(None),
            }
        }
    };
    Ok(Some(read(config, database, host).await?))
}

async fn read(config: &Config, database: Database, host: Uuid) -> Result<Records> {
    let store = store(config, database);
    let read = async {
        Ok(Records {
            metadata: store.metadata_id().await?,
            servers: store.servers_on(host).await?,
            now: store.now().await?,
        })
    };
    let read = read.await;
    store.close().await;
    read
}

/// Refuses to empty the trash of other metadata, where this metadata runs. Without it the
/// trash can be emptied: a full disk may be what keeps the metadata from running.
async fn refuse_other_metadata(config: &Config, trash: &Trash) -> Result<()> {
    let Some(host) = trash.host()? else {
        return Ok(());
    };
    let looked = tokio::time::timeout(LIMIT, records_where_served(config, host)).await;
    let Ok(Ok(Some(records))) = looked else {
        return Ok(());
    };
    match trash.owner().verify(records.metadata) {
        Err(error) if error.reason() == Reason::LocalRootMismatch => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn open(config: &Config) -> Result<Trash> {
    Trash::open(local_settings(config))?.ok_or_else(nothing)
}

fn nothing() -> Error {
    let message = "nobody has served with this local.root: there are no servers";
    Error::new(Reason::ServerDataNotFound, message)
}
