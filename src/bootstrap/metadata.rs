//! The metadata database: the embedded PostgreSQL, or the one in the configuration.

use std::{str::FromStr, sync::Arc, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::task::JoinSet;

use super::{data_dir::DataDir, run_as, run_directory};
use crate::{
    config::Config,
    domain::{Error, Reason, Result},
    providers::local::embedded::{self, Absent, Embedded},
    store::{Settings, Source, Store},
};

/// Shortest idle time in a transaction after which the database ends it. The time itself is the
/// lease of operations, so that a frozen process does not keep locks for longer than its claims.
const MIN_IDLE: Duration = Duration::from_secs(10);

/// Longest wait for connections in use. A database that does not answer would block the end of
/// the process for ever.
const CLOSE: Duration = Duration::from_secs(5);

const NO_URL: &str = "HOWDAH_DATABASE_URL is no PostgreSQL URL";

/// Pause between two attempts to reach an unavailable metadata database.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The metadata and, if it is embedded, its server.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) store: Store,
    embedded: Option<Arc<Embedded>>,
    // Aborted when it is dropped.
    watch: JoinSet<()>,
}

impl Metadata {
    /// Starts or adopts the embedded server, or uses the configured database, which may be
    /// unavailable.
    pub(super) async fn open(config: &Config, _locked: &DataDir) -> Result<Self> {
        let mut watch = JoinSet::new();
        let (source, embedded) = match &config.database_url {
            Some(url) => (external(url.clone())?, None),
            None => {
                let options = embedded_options(config, Absent::MakeFirst);
                let embedded = Arc::new(Embedded::open(options).await?);
                watch.spawn(keep_running(Arc::clone(&embedded)));
                (following(&embedded), Some(embedded))
            }
        };
        Ok(Self {
            store: store(config, source),
            embedded,
            watch,
        })
    }

    /// Closes the connections, then stops the embedded server. The last step of a shutdown.
    pub(super) async fn close(mut self) {
        self.watch.shutdown().await;
        if tokio::time::timeout(CLOSE, self.store.close())
            .await
            .is_err()
        {
            tracing::warn!("connections to the metadata database were still in use");
        }
        if let Some(embedded) = self.embedded
            && let Err(error) = embedded.stop().await
        {
            tracing::error!(%error, detail = error.internal_detail(), "the metadata server did not stop");
        }
    }
}

/// A store for the database of `source`, with the limits of the configuration.
pub(super) fn store(config: &Config, source: Source) -> Store {
    let settings = Settings {
        max_connections: config.database.max_connections,
        acquire_timeout: config.database.acquire_timeout,
        statement_timeout: config.database.statement_timeout,
        idle_in_transaction_timeout: config.operations.lease.max(MIN_IDLE),
    };
    Store::of_source(source, settings)
}

/// A source for the embedded server that follows its socket, which a restart may move.
fn following(embedded: &Arc<Embedded>) -> Source {
    let embedded = Arc::clone(embedded);
    Arc::new(move || Ok(of_embedded(&embedded.access())))
}

/// A source that never changes.
pub(super) fn fixed(options: PgConnectOptions) -> Source {
    Arc::new(move || Ok(options.clone()))
}

/// Retries while the error may pass by itself: the database is unavailable, or somebody holds a
/// lock.
pub(super) async fn wait_for(mut attempt: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    loop {
        match attempt().await {
            Err(error) if error.retryable() => {
                tracing::warn!(
                    %error,
                    detail = error.internal_detail(),
                    "waiting for the metadata database"
                );
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            done => return done,
        }
    }
}

/// A source for the configured URL. The URL is parsed again for each connection, because it may
/// refer to a password file whose contents have changed.
pub(super) fn external(url: SecretString) -> Result<Source> {
    let parse = move || {
        // The original error may contain the URL with the password.
        PgConnectOptions::from_str(url.expose_secret()).map_err(|_| NO_URL.to_owned())
    };
    parse().map_err(|message| Error::new(Reason::ConfigInvalid, message))?;
    Ok(Arc::new(parse))
}

/// Restarts the embedded server whenever it has ended by itself.
async fn keep_running(embedded: Arc<Embedded>) {
    loop {
        let result = match embedded.ended().await {
            Ok(()) => {
                tracing::warn!("the metadata server has ended, it is started again");
                embedded.restart().await.map(|_| ())
            }
            failed => failed,
        };
        if let Err(error) = result {
            tracing::error!(%error, detail = error.internal_detail(), "the metadata server is away");
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

/// The options of the embedded server, from the configuration.
pub(super) fn embedded_options(config: &Config, absent: Absent) -> embedded::Options {
    let data_dir = &config.data_dir;
    embedded::Options {
        run_directory: run_directory(&config.local.run_directory, data_dir),
        absent,
        engine_directories: config.local.engine_directories.clone(),
        system_engines: config.local.system_engines,
        run_as: run_as(config),
        ..embedded::Options::new(data_dir.clone())
    }
}

/// Options for sqlx to connect to the embedded server.
pub(super) fn of_embedded(access: &embedded::Access) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(&access.socket_directory)
        .port(access.port)
        .username(&access.user)
        .password(access.password.expose_secret())
        .database(&access.database)
        .ssl_mode(PgSslMode::Disable)
}
