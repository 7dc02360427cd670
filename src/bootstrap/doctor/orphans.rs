//! Servers on this host that no record knows.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::LIMIT;
use crate::{
    bootstrap::{local_settings, trash::recorded_where_served},
    config::{Config, Finding},
    domain::{Reason, Result},
    providers::local::{Present, Trash},
};

const CHECK: &str = "servers on record";

/// Names each server that no record knows, where the metadata can be reached.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    match tokio::time::timeout(LIMIT, Box::pin(orphans(config))).await {
        Ok(Ok(Some(orphans))) if orphans.is_empty() => {
            vec![Finding::ok(CHECK, "every server on this host is on record")]
        }
        Ok(Ok(Some(orphans))) => orphans.into_iter().map(describe).collect(),
        // Another check reports metadata that cannot be reached.
        Ok(Ok(None)) | Err(_) => Vec::new(),
        Ok(Err(error)) if error.reason() == Reason::MetadataUnavailable => Vec::new(),
        // The check of the files has reported it.
        Ok(Err(error)) if error.reason() == Reason::DataDirDamaged => Vec::new(),
        Ok(Err(error)) => {
            let remedy = "run it as the user that runs howdah serve, with its settings";
            vec![Finding::warn(CHECK, error.message(), remedy)]
        }
    }
}

/// None when it cannot be determined.
async fn orphans(config: &Config) -> Result<Option<Vec<Present>>> {
    let Some(trash) = Trash::open(local_settings(config))? else {
        return Ok(None);
    };
    let Some(host) = trash.host()? else {
        return Ok(None);
    };
    let before: BTreeSet<Uuid> = uids(&trash.present().await?);
    let Some(recorded) = recorded_where_served(config, host).await? else {
        return Ok(None);
    };
    // One that was removed between the two looks has lost its record with its data.
    let mut orphans = trash.present().await?;
    orphans.retain(|server| before.contains(&server.uid) && !recorded.contains(&server.uid));
    Ok(Some(orphans))
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
