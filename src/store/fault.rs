//! What the metadata database's errors mean.

use sqlx::Error as SqlxError;

use crate::{
    domain::{Error, Reason, Result},
    telemetry::sql::measure,
};

/// A query of the metadata that is measured under a name.
pub(crate) trait Measured<T>: Future<Output = Result<T, SqlxError>> + Sized {
    /// Runs it; callers see what its failure means.
    fn named(self, operation: &'static str) -> impl Future<Output = Result<T>> + Send
    where
        Self: Send,
        T: Send,
    {
        async move { measure(operation, self).await.map_err(classify) }
    }

    /// Runs it; the failure is still PostgreSQL's.
    fn raw(self, operation: &'static str) -> impl Future<Output = Result<T, SqlxError>> + Send
    where
        Self: Send,
        T: Send,
    {
        measure(operation, self)
    }
}

impl<T, F: Future<Output = Result<T, SqlxError>>> Measured<T> for F {}

/// The error that callers see for a failed query.
pub(crate) fn classify(error: SqlxError) -> Error {
    let reason = match &error {
        SqlxError::Io(_)
        | SqlxError::Tls(_)
        | SqlxError::PoolTimedOut
        | SqlxError::PoolClosed
        | SqlxError::WorkerCrashed => Reason::MetadataUnavailable,
        // A connection that was cut in the middle of a message.
        SqlxError::Protocol(_) => Reason::MetadataUnavailable,
        SqlxError::Database(fault) => of_sqlstate(fault.code().as_deref().unwrap_or_default()),
        _ => Reason::Internal,
    };
    match reason {
        Reason::Internal => Error::internal("metadata query failed").with_source(error),
        Reason::LockTimeout => Error::new(reason, "a lock was not had in time").with_source(error),
        _ => Error::new(reason, "the metadata database is not available").with_source(error),
    }
}

/// By SQLSTATE, see the appendix "PostgreSQL Error Codes".
fn of_sqlstate(code: &str) -> Reason {
    match code {
        "57P01" | "57P02" | "57P03" | "25006" | "25P03" => Reason::MetadataUnavailable,
        "55P03" | "40001" | "40P01" | "57014" => Reason::LockTimeout,
        // Connections, resources such as the disk or memory, the server's own system.
        _ if ["08", "53", "58"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            Reason::MetadataUnavailable
        }
        _ => Reason::Internal,
    }
}

/// Name of the constraint that a query broke, if that is why it failed.
pub(crate) fn broken_constraint(error: &SqlxError) -> Option<&str> {
    error
        .as_database_error()
        .and_then(|fault| fault.constraint())
}
