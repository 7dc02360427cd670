//! The metadata database: a PostgreSQL of our own, or one that is given.

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

/// A transaction in which nothing happens for longer is ended by the database, and no
/// sooner than that: a frozen process must not keep others from its operations.
const MIN_IDLE: Duration = Duration::from_secs(10);

/// Longest wait for connections in use: a database that went away without a word
/// would hold the end of the process for ever.
const CLOSE: Duration = Duration::from_secs(5);

const NO_URL: &str = "HOWDAH_DATABASE_URL is no PostgreSQL URL";

/// Pause between two tries to reach a metadata database that is away.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The metadata and, if it is ours, the server that holds it.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) store: Store,
    embedded: Option<Arc<Embedded>>,
    // Aborted when dropped.
    watch: JoinSet<()>,
}

impl Metadata {
    /// Starts or adopts the embedded server, or takes the one that is given. That one
    /// may be away.
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

    /// Stops the server, if it is ours; the last thing of a shutdown.
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

/// The metadata that `source` leads to, under the bounds that the settings give.
pub(super) fn store(config: &Config, source: Source) -> Store {
    let settings = Settings {
        max_connections: config.database.max_connections,
        acquire_timeout: config.database.acquire_timeout,
        statement_timeout: config.database.statement_timeout,
        idle_in_transaction_timeout: config.operations.lease.max(MIN_IDLE),
    };
    Store::of_source(source, settings)
}

/// A source that leads to the embedded server wherever its socket lies: a restart may have
/// moved it.
fn following(embedded: &Arc<Embedded>) -> Source {
    let embedded = Arc::clone(embedded);
    Arc::new(move || Ok(of_embedded(&embedded.access())))
}

/// A source that always leads to the same place.
pub(super) fn fixed(options: PgConnectOptions) -> Source {
    Arc::new(move || Ok(options.clone()))
}

/// Tries until nothing stands in the way any more that passes by itself: a database that
/// is away, or a lock that somebody holds.
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

/// The URL is read again for each connection: it names a password, or leads to a password
/// file, that may have been rotated.
pub(super) fn external(url: SecretString) -> Result<Source> {
    let parse = move || {
        // The error may show the URL, and with it the password.
        PgConnectOptions::from_str(url.expose_secret()).map_err(|_| NO_URL.to_owned())
    };
    parse().map_err(|message| Error::new(Reason::ConfigInvalid, message))?;
    Ok(Arc::new(parse))
}

/// Starts the embedded server again whenever it has ended by itself.
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

/// The embedded server that the settings describe.
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

/// How sqlx reaches the embedded server.
pub(super) fn of_embedded(access: &embedded::Access) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(&access.socket_directory)
        .port(access.port)
        .username(&access.user)
        .password(access.password.expose_secret())
        .database(&access.database)
        .ssl_mode(PgSslMode::Disable)
}
