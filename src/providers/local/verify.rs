//! Checks that a running server is the one on record.

use std::{path::Path, time::Duration};

use tokio::time::Instant;

use super::{
    ADMIN,
    control::{Cluster, Found},
    failure, processes,
    way::Way,
};
use crate::{
    domain::{Error, Reason, Result},
    pg::{self, Client, Login, Target, Tls},
};

/// Database that every server has from the beginning.
pub(crate) const FIRST_DATABASE: &str = "postgres";

/// SQLSTATEs: `invalid_catalog_name`, `duplicate_database`, `too_many_connections`,
/// `disk_full`.
const NO_DATABASE: &str = "3D000";
const DUPLICATE: &str = "42P04";
const TOO_MANY: &str = "53300";
const DISK_FULL: &str = "53100";

/// How often a server that does not accept connections yet is tried.
const PAUSE: Duration = Duration::from_millis(10);

/// Longest wait for one connection, and the shortest wait, even after the deadline.
const CONNECT: Duration = Duration::from_secs(5);
const LEAST_CONNECT: Duration = Duration::from_secs(1);

/// Longest run of one statement.
const STATEMENT: Duration = Duration::from_secs(60);

/// Allowed difference, in seconds, between the server's own start time and the one in
/// `postmaster.pid`. In between the server creates its shared memory and removes files of a
/// former server.
const START_SLACK: std::ops::RangeInclusive<i64> = -5..=600;

impl Cluster {
    /// Connects as `howdah_admin`.
    pub(crate) async fn connect(&self, database: &str) -> Result<Client, pg::Error> {
        self.connect_within(database, CONNECT).await
    }

    async fn connect_within(&self, database: &str, limit: Duration) -> Result<Client, pg::Error> {
        let target = Target {
            host: self.host(),
            port: self.port,
            tls: Tls::Disable,
        };
        let login = Login {
            user: ADMIN.to_owned(),
            password: Some(self.password.clone()),
            database: database.to_owned(),
        };
        Box::pin(pg::client::administer(
            &target, &login, "howdah", limit, STATEMENT,
        ))
        .await
    }

    /// Waits until the running server accepts connections, and checks that it is the one on
    /// record: by its system identifier, data directory and start time. Creates its database if
    /// it is missing. Gives up at the deadline.
    pub(crate) async fn verify(&self, deadline: Instant) -> Result<()> {
        loop {
            // A frozen server accepts the connection but does not answer.
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = left.clamp(LEAST_CONNECT, CONNECT);
            let error = match self.connect_within(self.database, limit).await {
                Ok(client) => return within(deadline, self.examine(&client)).await,
                Err(error) if error.sqlstate() == Some(NO_DATABASE) => {
                    return within(deadline, self.make_database()).await;
                }
                Err(error) => error,
            };
            if error.is_auth() {
                let why = "it refuses the password of howdah_admin";
                return Err(self.mismatch(why).with_source(error));
            }
            // All connections are in use, even the reserved ones. So the server does run.
            if error.sqlstate() == Some(TOO_MANY) {
                return Ok(());
            }
            if error.sqlstate() == Some(DISK_FULL) {
                return Err(failure::full(&self.home).with_source(error));
            }
            if !error.is_connection() {
                return Err(away().with_source(error));
            }
            if !matches!(self.look().await?, Found::Running(_)) {
                let message = "the server has ended while it started";
                return Err(Error::new(Reason::ServerUnavailable, message).with_source(error));
            }
            if Instant::now() >= deadline {
                let away = match self.way() {
                    Way::None => self.unreachable(),
                    Way::Socket | Way::Loopback(_) | Way::Elsewhere(_) => away(),
                };
                return Err(away.with_source(error));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Creates the database on a new server.
    async fn make_database(&self) -> Result<()> {
        let failed = |error: pg::Error| away().with_source(error);
        let client = self.connect(FIRST_DATABASE).await.map_err(failed)?;
        self.examine(&client).await?;
        let name = pg::sql::quote_identifier(self.database);
        let made = client
            .batch_execute(&format!("create database {name}"))
            .await;
        match made.map_err(pg::Error::from) {
            Err(error) if error.sqlstate() != Some(DUPLICATE) => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// Compares what the server says about itself with the record and with `postmaster.pid`.
    async fn examine(&self, client: &Client) -> Result<()> {
        let row = client
            .query_one(
                "select system_identifier, current_setting('data_directory'), \
                 extract(epoch from pg_postmaster_start_time())::bigint \
                 from pg_control_system()",
                &[],
            )
            .await
            .map_err(|error| away().with_source(pg::Error::from(error)))?;
        let found: (i64, String, i64) = (row.get(0), row.get(1), row.get(2));
        let identifier = u64::from_ne_bytes(found.0.to_ne_bytes());
        if self.system_identifier.is_some_and(|id| id != identifier) {
            return Err(self.mismatch("its system identifier is another one"));
        }
        let data = self.data();
        if !processes::same(Path::new(&found.1), &data) {
            return Err(self.mismatch("its data directory is another one"));
        }
        // The server itself reports both times, and took both when it started. So it does not
        // matter if the clock was set since.
        match self.look().await? {
            Found::Running(file) => match file.started {
                Some(started) if !START_SLACK.contains(&(found.2 - started)) => {
                    Err(self.mismatch("postmaster.pid is not its own"))
                }
                // If the file does not say the time, the process was identified by its command
                // line.
                Some(_) | None => Ok(()),
            },
            _ => Err(away()),
        }
    }
}

/// Runs statements until the deadline, but at least for the shortest wait. A server that freezes
/// after the login answers nothing, and its own timeouts do not end a statement either.
async fn within(deadline: Instant, work: impl Future<Output = Result<()>>) -> Result<()> {
    let end = deadline.max(Instant::now() + LEAST_CONNECT);
    let ended = tokio::time::timeout_at(end, Box::pin(work)).await;
    ended.unwrap_or_else(|_| Err(away().with_context("a statement got no answer")))
}

fn away() -> Error {
    Error::new(
        Reason::ServerUnavailable,
        "the server does not take connections",
    )
}
