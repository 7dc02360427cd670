//! Checks for servers on this host that no record knows.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{LIMIT, down, silent};
use crate::{
    bootstrap::{local_settings, trash::records_where_served},
    config::{Config, Finding},
    domain::{Reason, Result},
    providers::local::{Present, Trash},
};

const CHECK: &str = "servers on record";

/// Result of the search.
enum Search {
    /// There are no servers on this host.
    NoServers,
    /// The metadata cannot be read.
    NoRecords,
    /// The servers that no record knows.
    Orphans(Vec<Present>),
}

/// Reports each server that no record knows, if the metadata can be reached.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    match tokio::time::timeout(LIMIT, Box::pin(orphans(config))).await {
        Ok(Ok(Search::NoServers)) => vec![Finding::ok(CHECK, "there is no server on this host")],
        Ok(Ok(Search::Orphans(orphans))) if orphans.is_empty() => {
            vec![Finding::ok(CHECK, "every server on this host is on record")]
        }
        Ok(Ok(Search::Orphans(orphans))) => orphans.into_iter().map(describe).collect(),
        Ok(Ok(Search::NoRecords)) => vec![down(CHECK, config)],
        // Another check reports that the metadata cannot be reached.
        Err(_) => vec![silent(CHECK)],
        Ok(Err(error)) if error.reason() == Reason::MetadataUnavailable => vec![silent(CHECK)],
        Ok(Err(error)) if error.reason() == Reason::LocalRootMismatch => {
            let remedy = "see docs/errors/LOCAL_ROOT_MISMATCH.md";
            vec![Finding::fail(CHECK, error.message(), remedy)]
        }
        Ok(Err(error)) if error.reason() == Reason::DataDirDamaged => {
            let message = "not checked: files of the data directory are damaged or missing";
            let remedy = "see the findings on the data files, and run this again";
            vec![Finding::skip(CHECK, message, remedy)]
        }
        Ok(Err(error)) => {
            let remedy = "run it as the user that runs howdah serve, with its settings";
            vec![Finding::warn(CHECK, error.message(), remedy)]
        }
    }
}

async fn orphans(config: &Config) -> Result<Search> {
    let Some(trash) = Trash::open(local_settings(config))? else {
        return Ok(Search::NoServers);
    };
    let Some(host) = trash.host()? else {
        return Ok(Search::NoServers);
    };
    let before: BTreeSet<Uuid> = uids(&trash.present().await?);
    if before.is_empty() {
        return Ok(Search::NoServers);
    }
    let Some(records) = records_where_served(config, host).await? else {
        return Ok(Search::NoRecords);
    };
    trash.owner().verify(records.metadata)?;
    // A server that is removed between the two listings loses its record and its data.
    let mut orphans = trash.present().await?;
    orphans.retain(|server| before.contains(&server.uid) && !records.servers.contains(&server.uid));
    Ok(Search::Orphans(orphans))
}

fn uids(servers: &[Present]) -> BTreeSet<Uuid> {
    servers.iter().map(|server| server.uid).collect()
}

fn describe(orphan: Present) -> Finding {
    let Present { uid, running } = orphan;
    let state = match running {
        true => "and it runs",
        false => "and it does not run",
    };
    Finding::warn(
        CHECK,
        format!("no record knows the server {uid}, {state}"),
        format!("howdah trash throw {uid}, if it is not wanted any more"),
    )
}
