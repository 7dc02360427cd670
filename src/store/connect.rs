//! Makes single connections to the metadata database: finds the address, pins the parameters of
//! the session, and checks the server.

use std::{fmt, sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, Row as _, postgres::PgConnectOptions,
};
use tokio::time::timeout;

use super::fault::{OLDEST_MAJOR, Unusable};
use crate::domain::sqlstate::Meaning;

/// Returns address and login of the database. It is called for each connection, so a new
/// password is used without a restart.
pub type Source = Arc<dyn Fn() -> Result<PgConnectOptions, String> + Send + Sync>;

/// Parameters of the session. A role, a database or a server may set them differently, which
/// would change the meaning or the durability of our statements. The startup packet overrides
/// all that.
const PINNED: [(&str, &str); 12] = [
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    ("search_path", "public"),
    // A policy that hides rows then causes an error and not an incomplete result.
    ("row_security", "off"),
    ("synchronous_commit", "on"),
    // The pool closes idle connections itself.
    ("idle_session_timeout", "0"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("lock_timeout", "5s"),
    // All queries are short: compiling one would take longer than running it.
    ("jit", "off"),
    // Migrations cause notices such as "relation already exists, skipping".
    ("client_min_messages", "warning"),
];

/// Runs on each new connection. It also sets a parameter that servers before version 17 do not
/// have: in the startup packet they would refuse it.
const CHECK: &str = "select current_setting('transaction_read_only') = 'on',
    current_setting('server_encoding'),
    current_setting('default_transaction_isolation') = 'read committed'
    and current_setting('search_path') = 'public' and current_setting('row_security') = 'off'
    and current_setting('synchronous_commit') = 'on',
    case when current_setting('transaction_timeout', true) is not null
    then set_config('transaction_timeout', '0', false) end";

/// Makes connections that are all configured alike.
#[derive(Clone)]
pub(super) struct Connector {
    source: Source,
    session: Vec<(&'static str, String)>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The source may hold a password.
        formatter
            .debug_struct("Connector")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Connector {
    /// Connects to the server of `source`. `statement` is the longest run of a statement, `idle`
    /// the longest idle time inside a transaction.
    pub(super) fn new(source: Source, statement: Duration, idle: Duration) -> Self {
        let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
        let mut session: Vec<(&str, String)> = PINNED
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        session.push(("statement_timeout", milliseconds(statement)));
        session.push(("idle_in_transaction_session_timeout", milliseconds(idle)));
        Self { source, session }
    }

    /// A copy that sets one more parameter of the session.
    pub(super) fn with(&self, name: &'static str, value: &str) -> Self {
        let mut connector = self.clone();
        connector.session.push((name, value.to_owned()));
        connector
    }

    /// Address, login and parameters of the session.
    pub(super) fn options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        let options = (self.source)().map_err(Unusable::Address)?;
        let pinned = self.session.iter().map(|(name, value)| (name, value));
        Ok(options
            .application_name("howdah")
            .options(pinned)
            .disable_statement_logging())
    }

    /// Connects and checks the server, within `limit`.
    pub(super) async fn connect(&self, limit: Duration) -> Result<PgConnection, sqlx::Error> {
        let options = self.options()?;
        let connecting = async {
            let connected = PgConnection::connect_with(&options).await;
            let mut connection = connected.map_err(refused)?;
            check(&mut connection).await?;
            Ok(connection)
        };
        timeout(limit, connecting)
            .await
            .unwrap_or_else(|_| Err(timed_out()))
    }
}

/// Translates a refused connection. No statement was sent yet, so the codes have another
/// meaning.
fn refused(error: sqlx::Error) -> sqlx::Error {
    let Some(server) = error.as_database_error() else {
        return error;
    };
    let code = server.code().unwrap_or_default();
    match Meaning::of(&code) {
        // undefined_object: a pinned parameter that an older server does not have.
        _ if code == "42704" => Unusable::Setting(server.message().to_owned()).into(),
        // protocol_violation: a pooler that does not know a parameter of the startup packet.
        _ if code == "08P01" => Unusable::Refused(server.message().to_owned()).into(),
        // For example, the database does not allow connections at the moment.
        Meaning::Refused | Meaning::ObjectMissing | Meaning::RightMissing => {
            Unusable::Refused(server.message().to_owned()).into()
        }
        _ => error,
    }
}

/// Refuses a server on which calls would fail or lose data.
pub(super) async fn check(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let row = sqlx::raw_sql(CHECK).fetch_one(&mut *connection).await?;
    let major = connection.server_version_num().unwrap_or_default() / 10_000;
    if major < OLDEST_MAJOR {
        return Err(Unusable::Version(major).into());
    }
    let encoding: String = row.try_get(1)?;
    if encoding != "UTF8" {
        return Err(Unusable::Encoding(encoding).into());
    }
    if row.try_get(0)? {
        return Err(Unusable::ReadOnly.into());
    }
    if !row.try_get(2)? {
        return Err(Unusable::Unpinned.into());
    }
    Ok(())
}

/// The error of a call that was not answered in time.
pub(super) fn timed_out() -> sqlx::Error {
    let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
    sqlx::Error::Io(error)
}
