//! `howdah trash`: the data of removed servers, and servers that no record knows.

use std::{collections::BTreeSet, path::PathBuf};

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
/// SERVER_DATA_NOT_FOUND, CONFIG_INVALID, DATA_DIR_UNWRITABLE.
pub async fn trash_empty(
    config: Config,
    only: Option<BTreeSet<Uuid>>,
) -> anyhow::Result<Vec<Entry>> {
    Ok(open(&config)?.empty(only).await?)
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
        let (recorded, now) = recorded(&config, host).await?;
        Ok((!recorded.contains(&uid)).then_some(now))
    };
    Box::pin(trash.throw(uid, unknown)).await?;
    Ok(())
}

/// The servers on record for a host, and the metadata's time. Starts the embedded metadata
/// server if no process serves from it.
async fn recorded(config: &Config, host: Uuid) -> Result<(Vec<Uuid>, DateTime<Utc>)> {
    if let Some(url) = &config.database_url {
        return read(config, external(url.clone())?, host).await;
    }
    let source = Box::pin(Source::reach(config)).await?;
    let database = fixed(of_embedded(&source.embedded.access()));
    let recorded = read(config, database, host).await;
    source.close().await?;
    recorded
}

/// Like [`recorded`], but starts nothing: none if the embedded metadata server does not run.
pub(super) async fn recorded_where_served(
    config: &Config,
    host: Uuid,
) -> Result<Option<Vec<Uuid>>> {
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
    let (recorded, _) = read(config, database, host).await?;
    Ok(Some(recorded))
}

async fn read(
    config: &Config,
    database: Database,
    host: Uuid,
) -> Result<(Vec<Uuid>, DateTime<Utc>)> {
    let store = store(config, database);
    let read = async {
        let recorded = store.servers_on(host).await?;
        Ok((recorded, store.now().await?))
    };
    let read = read.await;
    store.close().await;
    read
}

fn open(config: &Config) -> Result<Trash> {
    Trash::open(local_settings(config))?.ok_or_else(nothing)
}

fn nothing() -> Error {
    let message = "nobody has served with this local.root: there are no servers";
    Error::new(Reason::ServerDataNotFound, message)
}
