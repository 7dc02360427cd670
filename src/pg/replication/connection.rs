//! A connection in replication mode, before it streams.

use std::time::Duration;

use postgres_protocol::message::frontend;

use super::command::{self, SlotOptions, StartOptions};
use super::stream::{Limits, ReplicationStream};
use crate::pg::wire::{self, BackendKey, Frame, Session, backend};
use crate::pg::{Error, Login, Lsn, Target};

/// Largest number of rows of a command's answer. Replication commands answer with one or two
/// rows.
const ROW_LIMIT: usize = 10_000;

/// How a replication session presents itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// As shown in `pg_stat_replication`.
    pub application_name: String,
    /// `UTF8`; `SQL_ASCII` for databases in that encoding.
    pub client_encoding: String,
    /// Time after which the server ends a connection without feedback. Feedback is sent after a
    /// third of it, and at least every 10 s.
    pub wal_sender_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            application_name: "howdah".into(),
            client_encoding: "UTF8".into(),
            wal_sender_timeout: Duration::from_secs(60),
        }
    }
}

/// The answer to IDENTIFY_SYSTEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemInfo {
    /// The cluster's identifier.
    pub system_id: u64,
    /// The timeline that it writes.
    pub timeline: u32,
    /// The position up to which its log is flushed.
    pub flush_lsn: Lsn,
    /// The database that this connection is for.
    pub database: Option<String>,
}

/// The answer to CREATE_REPLICATION_SLOT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Transactions that commit at or after it are streamed.
    pub consistent_point: Lsn,
    /// The exported snapshot, which lives until the next command.
    pub snapshot: Option<String>,
}

/// A session with `replication=database`.
#[derive(Debug)]
pub struct Connection {
    session: Session,
    target: Target,
    login: Login,
    options: Options,
    // A command whose future was dropped leaves its answer unread: the connection is unusable.
    busy: bool,
}

/// Cancels what a [`Connection`] runs, over a connection of its own.
#[derive(Clone, Debug)]
pub struct Canceller {
    target: Target,
    key: BackendKey,
}

impl Canceller {
    /// The walsender's process.
    pub fn pid(&self) -> i32 {
        self.key.pid
    }

    /// Asks the server to cancel the running command. A walsender that creates a slot does not
    /// notice that its client has disconnected, and has to be cancelled.
    pub async fn cancel(&self, limit: Duration) -> Result<(), Error> {
        wire::cancel(&self.target, &self.key, limit).await
    }
}

impl Connection {
    /// Connects and logs in within `limit`. Parameters that change how values are written are in
    /// the startup packet, which takes precedence over the database's and the role's.
    pub async fn connect(
        target: &Target,
        login: &Login,
        options: Options,
        limit: Duration,
    ) -> Result<Connection, Error> {
        let timeout = options.wal_sender_timeout.as_millis().to_string();
        let parameters = [
            ("replication", "database"),
            ("application_name", options.application_name.as_str()),
            ("client_encoding", options.client_encoding.as_str()),
            ("DateStyle", "ISO"),
            ("TimeZone", "UTC"),
            ("IntervalStyle", "postgres"),
            ("extra_float_digits", "3"),
            ("bytea_output", "hex"),
            ("lc_monetary", "C"),
            // The owner of the database may have set another one.
            ("role", "none"),
            ("search_path", "pg_catalog"),
            ("wal_sender_timeout", timeout.as_str()),
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
        ];
        let session = wire::log_in(target, login, &parameters, limit).await?;
        let (target, login) = (target.clone(), login.clone());
        Ok(Connection {
            session,
            target,
            login,
            options,
            busy: false,
        })
    }

    /// A handle that cancels this connection's commands.
    pub fn canceller(&self) -> Option<Canceller> {
        let key = self.session.key.clone()?;
        Some(Canceller {
            target: self.target.clone(),
            key,
        })
    }

    /// The server's major version; 0 if it cannot be read.
    pub fn server_major(&self) -> u32 {
        let version = self.session.parameters.get("server_version");
        let digits = version.and_then(|v| v.split(|c: char| !c.is_ascii_digit()).next());
        digits.and_then(|d| d.parse().ok()).unwrap_or(0)
    }

    /// Which cluster this is, and how far its log goes.
    pub async fn identify_system(&mut self) -> Result<SystemInfo, Error> {
        let row = self.row("IDENTIFY_SYSTEM").await?;
        let mut values = row.into_iter();
        Ok(SystemInfo {
            system_id: parse(values.next())?,
            timeline: parse(values.next())?,
            flush_lsn: parse(values.next())?,
            database: values.next().flatten(),
        })
    }

    /// Creates a slot. The server first waits for all transactions that are open now, in all
    /// databases, without a limit; see [`Canceller::cancel`].
    pub async fn create_slot(
        &mut self,
        name: &str,
        options: &SlotOptions,
    ) -> Result<CreatedSlot, Error> {
        let row = self
            .row(&command::create_slot(name, options, self.server_major()))
            .await?;
        let mut values = row.into_iter().skip(1);
        Ok(CreatedSlot {
            consistent_point: parse(values.next())?,
            snapshot: values.next().flatten(),
        })
    }

    /// Drops a slot. With `wait`, waits until no session uses it; otherwise a slot in use is an
    /// error.
    pub async fn drop_slot(&mut self, name: &str, wait: bool) -> Result<(), Error> {
        self.query(&command::drop_slot(name, wait)).await.map(drop)
    }

    /// Runs SQL or a replication command; rows in text.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        self.send(sql).await?;
        let (mut rows, mut outcome) = (Vec::new(), Ok(()));
        loop {
            let frame = self.session.channel.read().await?;
            match frame.tag {
                b'D' if rows.len() == ROW_LIMIT => return Err(Error::protocol("too many rows")),
                b'D' => rows.push(backend::row(&frame.body)?),
                b'E' => outcome = Err(server_error(&frame)?),
                b'Z' => break,
                b'T' | b'C' | b'I' | b'N' | b'S' => {}
                other => return Err(unexpected(other)),
            }
        }
        self.busy = false;
        outcome.map(|()| rows)
    }

    /// Starts streaming. The stream goes on until it is dropped or closed, or
    /// the server ends it.
    pub async fn start(
        mut self,
        options: &StartOptions,
        limits: Limits,
    ) -> Result<ReplicationStream, Error> {
        self.send(&command::start(options)).await?;
        loop {
            let frame = self.session.channel.read().await?;
            match frame.tag {
                b'W' => break,
                b'E' => return Err(server_error(&frame)?),
                b'N' | b'S' => {}
                other => return Err(unexpected(other)),
            }
        }
        let every = (self.options.wal_sender_timeout / 3).min(Duration::from_secs(10));
        let (stream, buffer) = self.session.channel.into_parts();
        // While the server decodes a large transaction that is filtered out, it sends nothing for
        // minutes. So silence does not mean that it is dead; bytes that its kernel does not
        // acknowledge do.
        stream.set_send_timeout(self.options.wal_sender_timeout.max(Duration::from_secs(60)));
        Ok(ReplicationStream::run(
            stream,
            buffer,
            (self.target, self.login),
            every,
            limits,
        ))
    }

    async fn send(&mut self, sql: &str) -> Result<(), Error> {
        if std::mem::replace(&mut self.busy, true) {
            return Err(Error::protocol(
                "an earlier command was given up on this connection",
            ));
        }
        self.session
            .channel
            .send_with(|out| frontend::query(sql, out))
            .await
    }

    async fn row(&mut self, sql: &str) -> Result<Vec<Option<String>>, Error> {
        let rows = self.query(sql).await?;
        rows.into_iter()
            .next()
            .ok_or_else(|| Error::protocol("a command without an answer"))
    }
}

fn parse<T: std::str::FromStr>(value: Option<Option<String>>) -> Result<T, Error> {
    let parsed = value.flatten().and_then(|v| v.parse().ok());
    parsed.ok_or_else(|| Error::protocol("an answer that cannot be read"))
}

fn server_error(frame: &Frame) -> Result<Error, Error> {
    Ok(Error::Server(Box::new(backend::notice(&frame.body)?)))
}

fn unexpected(tag: u8) -> Error {
    Error::protocol(format!(
        "message {:?} in answer to a command",
        char::from(tag)
    ))
}
