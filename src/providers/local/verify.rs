//! Seeing that a server that runs is the one on record.

use std::{path::Path, time::Duration};

use tokio::time::Instant;

use super::{
    ADMIN,
    control::{Cluster, Found},
    failure, identity,
    way::Way,
};
use crate::{
    domain::{Error, Reason, Result},
    pg::{self, Client, Login, Target, Tls},
};

/// Database that every server has.
pub(crate) const FIRST_DATABASE: &str = "postgres";

/// SQLSTATEs: `invalid_catalog_name`, `duplicate_database`, `too_many_connections`,
/// `disk_full`.
const NO_DATABASE: &str = "3D000";
const DUPLICATE: &str = "42P04";
const TOO_MANY: &str = "53300";
const DISK_FULL: &str = "53100";

/// How often a server that does not take connections yet is tried.
const PAUSE: Duration = Duration::from_millis(10);

/// Longest wait for one connection, and the least that it gets however late it is.
const CONNECT: Duration = Duration::from_secs(5);
const LEAST_CONNECT: Duration = Duration::from_secs(1);

/// Longest run of one statement.
const STATEMENT: Duration = Duration::from_secs(60);

/// By how many seconds a server's own start time may be later than the one in
/// `postmaster.pid`: between the two it takes its shared memory and removes what a
/// former one has left.
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

    /// Waits until the running server takes connections, and sees that it is the one
    /// on record: identifier, data directory and start time, and that it has its
    /// database. At the deadline it is given up, whatever it waits for.
    pub(crate) async fn verify(&self, deadline: Instant) -> Result<()> {
        loop {
            // A server that is frozen takes the connection and does not answer.
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
            // Every place is taken, howdah_admin's too: it does run.
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

    /// Makes the database on a server that has just been made.
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
        if !identity::same(Path::new(&found.1), &data) {
            return Err(self.mismatch("its data directory is another one"));
        }
        // Told by the server itself, so that a clock that was set since does not
        // matter: both times were taken when it started.
        match self.look().await? {
            Found::Running(file) => match file.started {
                Some(started) if !START_SLACK.contains(&(found.2 - started)) => {
                    Err(self.mismatch("postmaster.pid is not its own"))
                }
                // Without that time, the process is known by its command line.
                Some(_) | None => Ok(()),
            },
            _ => Err(away()),
        }
    }
}

/// Gives statements up at the deadline, and not sooner than the least wait: a server that
/// freezes after the login answers none, and its own timeouts end none.
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
