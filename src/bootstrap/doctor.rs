//! Checks for `howdah doctor` that need more than the settings.

mod keys;
mod orphans;

use std::time::Duration;

use secrecy::ExposeSecret;

use super::run_as;
use crate::{
    config::{Config, Finding},
    providers::local::installations,
};

/// Longest wait for the metadata database.
const LIMIT: Duration = Duration::from_secs(5);

/// Looks for PostgreSQL and for the metadata database that is given.
pub async fn doctor(config: &Config) -> Vec<Finding> {
    let mut findings = vec![engines(config).await];
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
    use sqlx::{Connection as _, PgConnection};
    const CHECK: &str = "metadata database";
    let Some(url) = &config.database_url else {
        return Vec::new();
    };
    let connecting = PgConnection::connect(url.expose_secret());
    let finding = match tokio::time::timeout(LIMIT, connecting).await {
        Ok(Ok(mut connection)) => {
            let keys = keys::check(config, &mut connection);
            let keys = tokio::time::timeout(LIMIT, keys).await;
            let _ = connection.close().await;
            let mut findings = vec![Finding::ok(CHECK, "answers")];
            findings.extend(keys.ok());
            return findings;
        }
        Ok(Err(sqlx::Error::Database(error))) => Finding::fail(
            CHECK,
            format!(
                "refuses: {} (SQLSTATE {})",
                error.message(),
                error.code().unwrap_or_default()
            ),
            "check the user, the password and the database of HOWDAH_DATABASE_URL",
        ),
        Ok(Err(_)) | Err(_) => Finding::fail(
            CHECK,
            "does not answer",
            "check the host and port of HOWDAH_DATABASE_URL and that the server runs",
        ),
    };
    vec![finding]
}
