//! Replaces the metadata database by a restored one, and back.

use super::{DATABASE, Embedded};
use crate::{
    domain::{Error, Reason, Result},
    failpoint,
    pg::{self, Client, sql::quote_identifier},
    providers::local::verify::FIRST_DATABASE,
};

/// Database that a backup is restored into.
pub const RESTORED: &str = "howdah_restore";

/// Database that was the metadata before the last restore.
pub const FORMER: &str = "howdah_before_restore";

/// Ends all other sessions of a database, because PostgreSQL renames only databases without
/// sessions. No process serves from it now: such a session is a backup's or an operator's.
const END_SESSIONS: &str = "select pg_terminate_backend(pid) from pg_stat_activity \
     where datname = $1 and pid <> pg_backend_pid()";

impl Embedded {
    /// Creates an empty database for a restore. Drops what an earlier attempt has left.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE, DISK_FULL, POSTGRESQL_REFUSED.
    pub async fn prepare_restore(&self) -> Result<()> {
        let client = self.administer().await?;
        drop_database(&client, RESTORED).await?;
        let name = quote_identifier(RESTORED);
        // `template1` may hold objects that somebody added; they are not part of the backup.
        run(
            &client,
            &format!("create database {name} template template0"),
        )
        .await
    }

    /// Drops what a failed restore has left.
    ///
    /// # Errors
    /// As [`Embedded::prepare_restore`].
    pub async fn discard_restore(&self) -> Result<()> {
        drop_database(&self.administer().await?, RESTORED).await
    }

    /// Makes the restored database the metadata, and keeps the old one as [`FORMER`]. One
    /// transaction renames both, so that after a crash one of the two is the metadata.
    ///
    /// # Errors
    /// As [`Embedded::prepare_restore`].
    pub async fn exchange(&self) -> Result<()> {
        let client = self.administer().await?;
        drop_database(&client, FORMER).await?;
        failpoint::hit("restore.before_swap");
        rename(&client, &[(DATABASE, FORMER), (RESTORED, DATABASE)]).await?;
        failpoint::hit("restore.after_swap");
        Ok(())
    }

    /// Returns an error if there is no former database to put back.
    ///
    /// # Errors
    /// METADATA_NOT_FOUND; as [`Embedded::prepare_restore`].
    pub async fn find_former(&self) -> Result<()> {
        let client = self.administer().await?;
        let sql = "select count(*) from pg_database where datname = $1";
        let found = client.query_one(sql, &[&FORMER]).await;
        let found: i64 = found.map_err(|error| refused(error.into()))?.get(0);
        match found {
            0 => {
                let message = "there is nothing to put back: no restore was made here";
                Err(Error::new(Reason::MetadataNotFound, message))
            }
            _ => Ok(()),
        }
    }

    /// Makes the former database the metadata again, and keeps the present one as [`FORMER`].
    ///
    /// # Errors
    /// As [`Embedded::find_former`].
    pub async fn exchange_back(&self) -> Result<()> {
        self.find_former().await?;
        let client = self.administer().await?;
        drop_database(&client, RESTORED).await?;
        let renames = [(DATABASE, RESTORED), (FORMER, DATABASE), (RESTORED, FORMER)];
        rename(&client, &renames).await
    }

    async fn administer(&self) -> Result<Client> {
        self.cluster()
            .connect(FIRST_DATABASE)
            .await
            .map_err(refused)
    }
}

async fn drop_database(client: &Client, name: &str) -> Result<()> {
    let name = quote_identifier(name);
    let sql = format!("drop database if exists {name} with (force)");
    run(client, &sql).await
}

async fn rename(client: &Client, renames: &[(&str, &str)]) -> Result<()> {
    let mut sql = "begin;".to_owned();
    for (name, new) in renames {
        let ended = client.execute(END_SESSIONS, &[name]).await;
        ended.map_err(|error| refused(error.into()))?;
        let (name, new) = (quote_identifier(name), quote_identifier(new));
        sql.push_str(&format!("alter database {name} rename to {new};"));
    }
    sql.push_str("commit");
    run(client, &sql).await
}

async fn run(client: &Client, sql: &str) -> Result<()> {
    let done = client.batch_execute(sql).await;
    done.map_err(|error| refused(error.into()))
}

/// Maps a failure by its SQLSTATE (PostgreSQL's appendix "PostgreSQL Error Codes").
fn refused(error: pg::Error) -> Error {
    let code = error.sqlstate().unwrap_or_default().to_owned();
    let failed = match code.as_str() {
        _ if error.is_connection() => {
            let message = "the metadata server does not answer";
            Error::new(Reason::MetadataUnavailable, message)
        }
        "53100" => Error::new(Reason::DiskFull, "no space is left for the metadata"),
        _ => {
            let message = format!("the metadata server refuses a statement (SQLSTATE {code})");
            Error::new(Reason::PostgresqlRefused, message)
        }
    };
    failed.with_source(error)
}
