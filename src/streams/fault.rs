//! Translates errors of PostgreSQL into those that a subscriber gets.

use crate::{
    domain::{Error, Reason, sqlstate::Meaning},
    pg::{self, Lsn},
};

/// An error of the replication connection before the stream runs. SQLSTATE 53300 means
/// `max_wal_senders` there, and 53400 `max_replication_slots`.
pub(super) fn of_slot(error: pg::Error) -> Error {
    if matches!(error.sqlstate(), Some("53400" | "53300")) {
        let message = "the server has no replication slot or walsender left";
        return Error::new(Reason::SlotsExhausted, message).with_source(error);
    }
    of_setup(error)
}

/// An error of a statement before the stream runs.
pub(super) fn of_setup(error: pg::Error) -> Error {
    let Some(server) = error.server() else {
        if error.is_connection() {
            let message = "the instance's server is not available";
            return Error::new(Reason::ServerUnavailable, message).with_source(error);
        }
        // A fault of Howdah itself: trying again would not help.
        return Error::internal("setting up a stream").with_source(error);
    };
    let (code, text) = (server.code.as_str(), server.message.as_str());
    let (reason, message) = match Meaning::of(code) {
        _ if code == "55000" && text.contains("wal_level") => (
            Reason::LogicalDecodingOff,
            "the server's wal_level is not logical".to_owned(),
        ),
        Meaning::DatabaseMissing => (
            Reason::DatabaseNotFound,
            "the database does not exist on the server".to_owned(),
        ),
        Meaning::ConnectionsExhausted => (
            Reason::ServerUnavailable,
            "the instance's server takes no more connections now".to_owned(),
        ),
        Meaning::SessionEnded
        | Meaning::ServerStarting
        | Meaning::ReadOnly
        | Meaning::DiskFull
        | Meaning::ResourcesExhausted
        | Meaning::ServerFault => (
            Reason::ServerUnavailable,
            format!("the instance's server is not available: {text} (SQLSTATE {code})"),
        ),
        Meaning::Busy => (
            Reason::LockTimeout,
            "a lock on the tables was not granted in time".to_owned(),
        ),
        Meaning::RightMissing => (Reason::RightMissing, format!("PostgreSQL refused: {text}")),
        _ if code == "42P01" => (
            Reason::TableNotFound,
            "a table was dropped while the subscription was being created".to_owned(),
        ),
        Meaning::LoginRefused | Meaning::ObjectMissing | Meaning::Encoding | Meaning::Refused => (
            Reason::PostgresqlRefused,
            format!("PostgreSQL refused: {text} (SQLSTATE {code})"),
        ),
    };
    Error::new(reason, message).with_source(error)
}

/// An error that ends a running stream.
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

/// Whether the server may have ended a stream because it has given up the slot: a walsender whose
/// slot is invalidated is terminated like any other one.
pub(super) fn may_be_slot_lost(error: &pg::Error) -> bool {
    match error {
        pg::Error::Server(server) => {
            server.code == "57P01" || server.message.contains("replication slot")
        }
        _ => false,
    }
}

/// An error that ends a running stream, and whether its slot is lost.
pub(super) fn of_running(error: pg::Error, lost: bool) -> Error {
    if lost {
        let message = "the server has given up the replication slot: it retained more log than \
             max_slot_wal_keep_size allows";
        return Error::new(Reason::SlotLost, message).with_source(error);
    }
    of_stream(error)
}

/// For a change that is larger than a message may be, with its table and transaction where they
/// are known.
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

/// For a message that breaks PostgreSQL's protocol.
pub(super) fn malformed(what: impl std::fmt::Display) -> Error {
    Error::internal(format!("logical decoding message: {what}"))
}
