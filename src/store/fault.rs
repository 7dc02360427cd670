//! Translates errors of the metadata database.

use sqlx::{Error as SqlxError, error::DatabaseError};

use crate::{
    domain::{Error, Reason, Result, sqlstate::Meaning},
    telemetry::sql::measure,
};

/// A query of the metadata that is measured under a name.
pub(crate) trait Measured<T>: Future<Output = Result<T, SqlxError>> + Sized {
    /// Runs the query, and translates its error.
    fn named(self, operation: &'static str) -> impl Future<Output = Result<T>> + Send
    where
        Self: Send,
        T: Send,
    {
        async move { measure(operation, self).await.map_err(classify) }
    }

    /// Runs the query, and leaves its error as it is.
    fn raw(self, operation: &'static str) -> impl Future<Output = Result<T, SqlxError>> + Send
    where
        Self: Send,
        T: Send,
    {
        measure(operation, self)
    }
}

impl<T, F: Future<Output = Result<T, SqlxError>>> Measured<T> for F {}

/// Reasons why a server cannot be used although it answers. Carried by [`SqlxError::Io`].
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// A standby, or a primary that was demoted.
    #[error("it is read-only")]
    ReadOnly,
    /// Users' names and labels cannot be stored in that encoding.
    #[error("its encoding is {0} instead of UTF8")]
    Encoding(String),
    /// Older than the oldest supported version.
    #[error("it runs PostgreSQL {0}; the oldest that is supported is {oldest}", oldest = OLDEST_MAJOR)]
    Version(u32),
    /// It lacks a parameter that all supported versions have.
    #[error("it is older than PostgreSQL {oldest}: {0}", oldest = OLDEST_MAJOR)]
    Setting(String),
    /// A program between us and the server, such as a pooler, drops parameters of the session.
    #[error("settings of the session do not arrive, as through a pooler that drops `options`")]
    Unpinned,
    /// It does not accept connections to this database.
    #[error("it refuses the connection: {0}")]
    Refused(String),
    /// The address cannot be read.
    #[error("{0}")]
    Address(String),
}

/// Oldest supported major version of PostgreSQL for the metadata.
pub(super) const OLDEST_MAJOR: u32 = 15;

impl From<Unusable> for SqlxError {
    fn from(unusable: Unusable) -> Self {
        Self::Io(std::io::Error::other(unusable))
    }
}

/// The error that callers get for a failed query.
pub(crate) fn classify(error: SqlxError) -> Error {
    let (reason, message) = meaning(&error);
    match reason {
        Reason::Internal => Error::internal("metadata query failed").with_source(error),
        _ => Error::new(reason, message).with_source(error),
    }
}

fn meaning(error: &SqlxError) -> (Reason, String) {
    match error {
        SqlxError::Database(error) => of_server(error.as_ref()),
        SqlxError::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(
                unusable @ (Unusable::Encoding(_)
                | Unusable::Version(_)
                | Unusable::Setting(_)
                | Unusable::Unpinned),
            ) => (
                Reason::MetadataUnsuitable,
                format!("the metadata database cannot be used: {unusable}"),
            ),
            Some(unusable) => unavailable(&unusable.to_string()),
            None => unavailable("it cannot be reached"),
        },
        SqlxError::Tls(_) => unavailable("no TLS session with it can be had"),
        SqlxError::PoolTimedOut => {
            unavailable("no connection to it was free or could be made in time")
        }
        SqlxError::PoolClosed => unavailable("this process is shutting down"),
        // The connection was cut in the middle of a message.
        SqlxError::Protocol(_) | SqlxError::WorkerCrashed => unavailable("a connection was lost"),
        _ => (Reason::Internal, String::new()),
    }
}

fn of_server(error: &dyn DatabaseError) -> (Reason, String) {
    let code = error.code().unwrap_or_default();
    match Meaning::of(&code) {
        Meaning::SessionEnded => unavailable("a connection was lost"),
        Meaning::ServerStarting => unavailable("it is starting or stopping"),
        Meaning::ConnectionsExhausted => unavailable("it takes no more connections"),
        Meaning::ReadOnly => unavailable("it is read-only"),
        Meaning::LoginRefused => unavailable("it refuses the login"),
        Meaning::DatabaseMissing => unavailable("the database does not exist on the server"),
        Meaning::DiskFull => unavailable("its disk is full"),
        Meaning::ResourcesExhausted => unavailable("it is out of memory or another resource"),
        Meaning::ServerFault => unavailable("it has a fault of its own"),
        Meaning::RightMissing => unavailable("its role lacks a right"),
        Meaning::Busy => (
            Reason::LockTimeout,
            "a lock in the metadata database was not granted in time".to_owned(),
        ),
        Meaning::ObjectMissing => (
            Reason::MetadataSchemaMismatch,
            "the metadata database lacks a table or column of this program".to_owned(),
        ),
        Meaning::Encoding => (
            Reason::MetadataUnsuitable,
            "a text does not fit the encoding of the metadata database".to_owned(),
        ),
        // A migration has changed the result of a prepared statement. A new session prepares it
        // again.
        Meaning::Refused if code == "0A000" => unavailable("its schema has changed"),
        Meaning::Refused => (Reason::Internal, String::new()),
    }
}

fn unavailable(why: &str) -> (Reason, String) {
    let message = format!("the metadata database is not available: {why}");
    (Reason::MetadataUnavailable, message)
}

/// Whether the connection cannot be used after this error.
pub(super) fn ends_session(error: &SqlxError) -> bool {
    match error {
        SqlxError::Database(error) => {
            let code = error.code().unwrap_or_default();
            Meaning::of(&code).ends_session() || code == "0A000"
        }
        SqlxError::Io(_) | SqlxError::Tls(_) | SqlxError::Protocol(_) => true,
        _ => false,
    }
}

/// Whether a write failed because the disk is full.
pub(super) fn is_disk_full(error: &SqlxError) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| Meaning::of(&code) == Meaning::DiskFull)
}

/// Whether the server has answered at all, even by a refusal.
pub(super) fn answered(error: &SqlxError) -> bool {
    match error {
        SqlxError::Database(_) => true,
        SqlxError::Io(error) => error.get_ref().is_some_and(|inner| inner.is::<Unusable>()),
        _ => false,
    }
}

/// Whether another attempt to connect may succeed within a second: the server restarts, its
/// backlog is full, or a standby takes over.
pub(super) fn passes(error: &SqlxError) -> bool {
    match error {
        SqlxError::Database(error) => matches!(
            Meaning::of(&error.code().unwrap_or_default()),
            Meaning::ServerStarting | Meaning::ConnectionsExhausted | Meaning::SessionEnded
        ),
        SqlxError::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(
                Unusable::Encoding(_)
                | Unusable::Version(_)
                | Unusable::Setting(_)
                | Unusable::Unpinned
                | Unusable::Address(_),
            ) => false,
            Some(Unusable::ReadOnly | Unusable::Refused(_)) | None => true,
        },
        SqlxError::Protocol(_) => true,
        _ => false,
    }
}

/// Name of the constraint that a query has violated; none if it failed for another reason.
pub(crate) fn broken_constraint(error: &SqlxError) -> Option<&str> {
    error
        .as_database_error()
        .and_then(|fault| fault.constraint())
}
