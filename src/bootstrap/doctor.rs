//! Checks of `howdah doctor` that need more than the configuration.

mod data_dir;
mod keys;
mod orphans;
mod serving;

use std::{str::FromStr, time::Duration};

use secrecy::ExposeSecret;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use super::{
    metadata::{embedded_options, of_embedded},
    run_as,
};
use crate::{
    config::{Config, Finding},
    providers::local::{
        embedded::{Absent, Embedded, Trace, trace},
        installations,
    },
};

pub use serving::{Listening, listening};

const METADATA: &str = "metadata database";

/// Longest wait for the metadata database.
const LIMIT: Duration = Duration::from_secs(5);

/// Checks PostgreSQL, the files of the data directory and the metadata.
pub async fn doctor(config: &Config) -> Vec<Finding> {
    let mut findings = vec![engines(config).await];
    findings.extend(data_dir::check(config));
    findings.extend(metadata(config).await);
    findings.extend(orphans::check(config).await);
    findings
}

async fn engines(config: &Config) -> Finding {
    const CHECK: &str = "postgresql";
    let configured = config.local.engine_directories.clone();
    let found = installations(
        configured,
        config.local.system_engines,
        run_as(config).as_deref(),
    )
    .await;
    match found {
        Err(error) => Finding::fail(CHECK, error.message(), "see the other findings"),
        Ok(engines) if engines.iter().any(|engine| engine.usable()) => {
            let usable = engines.iter().filter(|engine| engine.usable());
            let versions: Vec<String> = usable.map(|engine| engine.version.to_string()).collect();
            Finding::ok(CHECK, format!("PostgreSQL {}", versions.join(", ")))
        }
        Ok(_) => Finding::fail(
            CHECK,
            "no PostgreSQL that instances could be made from",
            "apt-get install postgresql, or set local.engine_directories",
        ),
    }
}

async fn metadata(config: &Config) -> Vec<Finding> {
    let options = match &config.database_url {
        Some(url) => PgConnectOptions::from_str(url.expose_secret()),
        None => match embedded(config).await {
            Ok(Some(options)) => Ok(options),
            Ok(None) => return vec![down(METADATA, config), down(keys::CHECK, config)],
            Err(finding) => return vec![finding, silent(keys::CHECK)],
        },
    };
    let connecting = async { PgConnection::connect_with(&options?).await };
    let finding = match tokio::time::timeout(LIMIT, connecting).await {
        Ok(Ok(mut connection)) => {
            let keys = keys::check(config, &mut connection);
            let keys = tokio::time::timeout(LIMIT, keys).await;
            let _ = connection.close().await;
            let keys = keys.unwrap_or_else(|_| silent(keys::CHECK));
            return vec![Finding::ok(METADATA, "answers"), keys];
        }
        Ok(Err(_)) | Err(_) if config.database_url.is_none() => Finding::fail(
            METADATA,
            "the embedded server runs and does not answer",
            "look at metadata/data/log in the data directory",
        ),
        Ok(Err(sqlx::Error::Database(error))) => Finding::fail(
            METADATA,
            format!(
                "refuses: {} (SQLSTATE {})",
                error.message(),
                error.code().unwrap_or_default()
            ),
            "check the user, the password and the database of HOWDAH_DATABASE_URL",
        ),
        Ok(Err(_)) | Err(_) => Finding::fail(
            METADATA,
            "does not answer",
            "check the host and port of HOWDAH_DATABASE_URL and that the server runs",
        ),
    };
    vec![finding, silent(keys::CHECK)]
}

/// The finding for a check that was skipped because the embedded metadata server does not run.
fn down(check: &str, config: &Config) -> Finding {
    match trace(&config.data_dir) {
        Ok(Trace::None) => Finding::skip(
            check,
            "not checked: there is no metadata yet",
            "the first start of `howdah serve` makes it",
        ),
        _ => Finding::skip(
            check,
            "not checked: the embedded metadata server does not run",
            "start `howdah serve`, and run this again beside it",
        ),
    }
}

/// The finding for a check that was skipped because the metadata database does not answer.
fn silent(check: &str) -> Finding {
    let message = "not checked: the metadata database does not answer";
    let remedy = "see the finding on the metadata database, and run this again";
    Finding::skip(check, message, remedy)
}

/// Connects to the embedded server; none if it does not run. Starts nothing.
async fn embedded(config: &Config) -> Result<Option<PgConnectOptions>, Finding> {
    let options = embedded_options(config, Absent::Refuse);
    let attached = tokio::time::timeout(LIMIT, Embedded::attach(&options)).await;
    let silent = || {
        let message = "the embedded server runs and does not answer";
        Finding::fail(
            METADATA,
            message,
            "look at metadata/data/log in the data directory",
        )
    };
    let attached = attached.map_err(|_| silent())?;
    // Another check, of the files, reports why it cannot be examined.
    Ok(attached
        .ok()
        .flatten()
        .map(|embedded| of_embedded(&embedded.access())))
}
