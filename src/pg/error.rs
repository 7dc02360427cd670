//! What can go wrong between us and a server.

use std::error::Error as StdError;
use std::{fmt, io};

/// The fields of an ErrorResponse or NoticeResponse.
///
/// `detail` may hold values of rows, so it stands neither in Display nor in
/// Debug: who shows it decides to.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `PANIC`, `WARNING` and so on, never translated.
    pub severity: String,
    /// The five characters of the SQLSTATE.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// The secondary message; may hold values of rows.
    pub detail: Option<String>,
    /// What the server suggests.
    pub hint: Option<String>,
    /// The schema that the error is about.
    pub schema: Option<String>,
    /// The table that the error is about.
    pub table: Option<String>,
    /// The constraint that the error is about.
    pub constraint: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)
    }
}

impl ServerError {
    /// Whether the server says that it is stopping, or that an administrator
    /// ended this backend: 57P01 `admin_shutdown`, 57P02 `crash_shutdown`,
    /// 57P03 `cannot_connect_now`.
    pub fn is_shutdown(&self) -> bool {
        matches!(self.code.as_str(), "57P01" | "57P02" | "57P03")
    }
}

/// An error of a connection or of a statement. Never holds a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection could be made, or it broke.
    #[error("cannot reach the server: {0}")]
    Connect(#[source] io::Error),
    /// Authentication failed on our side; a refusal by the server is
    /// [`Error::Server`] with a code of class 28.
    #[error("authentication failed: {0}")]
    Auth(String),
    /// TLS was asked for and cannot be had.
    #[error("tls failed: {0}")]
    Tls(String),
    /// The server broke the protocol, or a bound of ours.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// The server sends a message that is larger than was allowed.
    #[error("a message of {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// The server answered with an error.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// The limit for connecting or answering ran out.
    #[error("the server did not answer in time")]
    Timeout,
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server is shutting down, and ended a stream or a session for it.
    #[error("the server is shutting down")]
    Shutdown,
}

impl Error {
    /// The SQLSTATE, where the server gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|e| e.code.as_str())
    }

    /// What the server said, if it was the server that said it.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Error::Server(e) => Some(e),
            _ => None,
        }
    }

    /// Whether the login was refused, by the server (class 28) or by us.
    pub fn is_auth(&self) -> bool {
        matches!(self, Error::Auth(_)) || self.sqlstate().is_some_and(|c| c.starts_with("28"))
    }

    /// Whether the connection is gone or could not be made, so that another
    /// one may do better: not the fault of the statement or of the login.
    pub fn is_connection(&self) -> bool {
        match self {
            Error::Connect(_) | Error::Closed | Error::Timeout | Error::Shutdown => true,
            Error::Server(e) => e.is_shutdown() || e.code.starts_with("08"),
            _ => false,
        }
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Error {
        Error::Protocol(what.into())
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Error::Closed,
            _ => Error::Connect(e),
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(e: tokio_postgres::Error) -> Self {
        if let Some(db) = e.as_db_error() {
            return Error::Server(Box::new(db.into()));
        }
        if e.is_closed() {
            return Error::Closed;
        }
        if let Some(source) = e.source().and_then(|s| s.downcast_ref::<io::Error>()) {
            // tokio-postgres keeps its kinds private; its phrases tell them apart.
            return match e.to_string().as_str() {
                _ if source.kind() == io::ErrorKind::PermissionDenied => {
                    Error::Auth(source.to_string())
                }
                "authentication error" => Error::Auth(source.to_string()),
                "error parsing response from server" => Error::Protocol(source.to_string()),
                _ => io::Error::new(source.kind(), source.to_string()).into(),
            };
        }
        let detail = e.source().map(ToString::to_string);
        let text = detail.map_or_else(|| e.to_string(), |d| format!("{e}: {d}"));
        match e.to_string().as_str() {
            "authentication error" | "invalid configuration" => Error::Auth(text),
            _ => Error::Protocol(text),
        }
    }
}

impl From<&tokio_postgres::error::DbError> for ServerError {
    fn from(db: &tokio_postgres::error::DbError) -> Self {
        ServerError {
            severity: db.severity().to_owned(),
            code: db.code().code().to_owned(),
            message: db.message().to_owned(),
            detail: db.detail().map(str::to_owned),
            hint: db.hint().map(str::to_owned),
            schema: db.schema().map(str::to_owned),
            table: db.table().map(str::to_owned),
            constraint: db.constraint().map(str::to_owned),
        }
    }
}
