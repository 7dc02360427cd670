//! What the errors of a replication connection mean to a subscriber.

use crate::{
    domain::{Error, Reason},
    pg::{self, Lsn},
};

/// Of the replication connection before the stream runs. There 53300 is of
/// `max_wal_senders`, and 53400 of `max_replication_slots`.
pub(super) fn of_slot(error: pg::Error) -> Error {
    if matches!(error.sqlstate(), Some("53400" | "53300")) {
        let message = "the server has no replication slot or walsender left";
        return Error::new(Reason::SlotsExhausted, message).with_source(error);
    }
    of_setup(error)
}

/// Of a statement before the stream runs.
pub(super) fn of_setup(error: pg::Error) -> Error {
    let server = error
        .server()
        .map(|server| (server.code.clone(), server.message.clone()));
    let (reason, message) = match server.as_ref().map(|(code, text)| (code.as_str(), text)) {
        _ if error.is_connection() => (
            Reason::ServerUnavailable,
            "the instance's server is not available".to_owned(),
        ),
        Some(("3D000", _)) => (
            Reason::DatabaseNotFound,
            "the database does not exist on the server".to_owned(),
        ),
        Some(("53300", _)) => (
            Reason::ServerUnavailable,
            "the instance's server takes no more connections now".to_owned(),
        ),
        Some(("55000", text)) if text.contains("wal_level") => (
            Reason::LogicalDecodingOff,
            "the server's wal_level is not logical".to_owned(),
        ),
        Some(("55P03" | "57014", _)) => (
            Reason::LockTimeout,
            "a lock on the tables was not had in time".to_owned(),
        ),
        Some(("42501", text)) => (Reason::RightMissing, format!("PostgreSQL refused: {text}")),
        Some((code, text)) => (
            Reason::PostgresqlRefused,
            format!("PostgreSQL refused: {text} (SQLSTATE {code})"),
        ),
        // Ours: another try ends in the same way.
        None => return Error::internal("setting up a stream").with_source(error),
    };
    Error::new(reason, message).with_source(error)
}

/// Of a stream that was running.
pub(super) fn of_stream(error: pg::Error) -> Error {
    let (reason, message) = match &error {
        pg::Error::Shutdown => (
            Reason::ServerStopping,
            "the instance's server is shutting down".to_owned(),
        ),
        pg::Error::Server(server) if server.code == "57P03" => (
            Reason::ServerStopping,
            "the instance's server is shutting down".to_owned(),
        ),
        // 42704: undefined object, in any language.
        pg::Error::Server(server)
            if server.code == "42704" || server.message.contains("publication") =>
        {
            (
                Reason::PublicationLost,
                format!("PostgreSQL ended the stream: {}", server.message),
            )
        }
        pg::Error::Server(server) => (
            Reason::StreamLost,
            format!("PostgreSQL ended the stream: {}", server.message),
        ),
        _ => (
            Reason::StreamLost,
            "the connection to the server was lost".to_owned(),
        ),
    };
    Error::new(reason, message).with_source(error)
}

/// Of a change that no message can hold, with what is known of it.
pub(super) fn too_large(bytes: usize, table: Option<&str>, commit: Option<Lsn>) -> Error {
    let mut message = format!("a change takes {bytes} bytes, more than a message can hold");
    if let Some(table) = table {
        message.push_str(&format!("; table {table}"));
    }
    if let Some(lsn) = commit {
        message.push_str(&format!("; commit LSN {lsn}"));
    }
    let mut error = Error::new(Reason::ChangeTooLarge, message);
    if let Some(table) = table {
        error = error.with_metadata("table", table);
    }
    if let Some(lsn) = commit {
        error = error.with_metadata("commit_lsn", lsn.to_string());
    }
    error
}

/// Of a message that cannot be what PostgreSQL sends.
pub(super) fn malformed(what: impl std::fmt::Display) -> Error {
    Error::internal(format!("logical decoding message: {what}"))
}
