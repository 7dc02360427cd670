//! Errors of the client.

use std::{collections::BTreeMap, error::Error as _, fmt, time::Duration};

use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::pb::google::rpc;

/// tonic's message, with code CANCELLED, for a call whose own timeout has passed.
const TIMEOUT_EXPIRED: &str = "Timeout expired";

/// Reason of a call that was refused before it reached a handler.
const BUDGET_EXHAUSTED: &str = "BUDGET_EXHAUSTED";

/// Message when a lost connection cannot be made again.
const AWAY: &str = "the server cannot be reached any more";

/// Message of a call whose connection was cut.
const CUT: &str = "the connection to the server was lost";

/// Errors of the client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint or a TLS file is wrong.
    #[error("{0}")]
    Options(String),
    /// No server answers at the endpoint.
    #[error("cannot reach {endpoint}: {message}")]
    Unreachable {
        /// The endpoint.
        endpoint: String,
        /// Why.
        message: String,
        /// Whether something answered that does not speak TLS.
        without_tls: bool,
    },
    /// The server refused the call.
    #[error("{0}")]
    Call(Box<Failure>),
    /// The operation was accepted and failed later.
    #[error("{failure}")]
    Operation {
        /// Name of the operation.
        name: String,
        /// Why it failed.
        failure: Box<Failure>,
    },
    /// The operation is still running at the end of the wait.
    #[error("operation {name} is not done yet, and goes on")]
    NotDone {
        /// Name of the operation.
        name: String,
    },
    /// The server's response cannot be understood by this client.
    #[error("unexpected answer of the server: {0}")]
    Unexpected(String),
}

impl Error {
    pub(super) fn unreachable(endpoint: &str, error: &dyn std::error::Error) -> Self {
        // The outermost text is "transport error"; the innermost one describes the cause.
        let mut innermost = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        let message = innermost.to_string();
        // rustls reports this when the response is not a TLS record. A gRPC server without TLS
        // resets the connection, because what it reads is not HTTP/2.
        let reset = endpoint.starts_with("https:") && message.contains("reset by peer");
        Self::Unreachable {
            endpoint: endpoint.to_owned(),
            without_tls: reset || message.contains("InvalidContentType"),
            message,
        }
    }

    /// The server's status; none if there was no response.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Call(failure) | Self::Operation { failure, .. } => Some(failure),
            Self::Options(_)
            | Self::Unreachable { .. }
            | Self::NotDone { .. }
            | Self::Unexpected(_) => None,
        }
    }

    /// Whether the server has returned this reason.
    #[must_use]
    pub fn has_reason(&self, reason: &str) -> bool {
        self.failure()
            .is_some_and(|failure| failure.reason == reason)
    }

    /// Whether the same call may succeed later: the server is unavailable, or the caller has
    /// reached its limit of concurrent calls.
    pub(super) fn passes(&self) -> bool {
        matches!(self, Self::Call(failure)
            if failure.code == Code::Unavailable || failure.reason == BUDGET_EXHAUSTED)
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.failure().and_then(|failure| failure.retry_after)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(Failure::from(&status)))
    }
}

/// A gRPC status with its google.rpc details.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Code of the status.
    pub code: Code,
    /// Message for people.
    pub message: String,
    /// Reason in UPPER_SNAKE, of `ErrorInfo`; empty if there is none.
    pub reason: String,
    /// Entries of `ErrorInfo.metadata`.
    pub metadata: BTreeMap<String, String>,
    /// Invalid fields of the request, each with a description.
    pub fields: Vec<(String, String)>,
    /// Resource that the error is about; empty if unknown.
    pub resource: String,
    /// Time after which to retry.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// Parses the error of an operation.
    pub(super) fn of_operation(error: rpc::Status) -> Self {
        let details = error.encode_to_vec().into();
        let code = Code::from_i32(error.code);
        Self::from(&Status::with_details(code, error.message, details))
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let fields = details.bad_request().map(|bad| &bad.field_violations);
        let ran_out = status.code() == Code::Cancelled && status.message() == TIMEOUT_EXPIRED;
        let (code, message) = match status.message() {
            _ if ran_out => (Code::DeadlineExceeded, TIMEOUT_EXPIRED),
            _ if is_cut(status) => (Code::Unavailable, CUT),
            _ if is_away(status) => (Code::Unavailable, AWAY),
            message => (status.code(), message),
        };
        Self {
            code,
            message: message.to_owned(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            metadata: info
                .map(|info| info.metadata.clone().into_iter().collect())
                .unwrap_or_default(),
            fields: fields
                .into_iter()
                .flatten()
                .map(|field| (field.field.clone(), field.description.clone()))
                .collect(),
            resource: details
                .resource_info()
                .map(|resource| resource.resource_name.clone())
                .unwrap_or_default(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
        }
    }
}

/// Whether no new connection to the server could be made.
fn is_away(status: &Status) -> bool {
    let mut source = status
        .source()
        .filter(|_| status.code() == Code::Unavailable);
    while let Some(error) = source {
        if error.is::<tonic::transport::Error>() || error.is::<std::io::Error>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Whether the connection ended before the response. The server has sent no status, so tonic
/// reports UNKNOWN, or CANCELLED for a call that waited for the connection.
fn is_cut(status: &Status) -> bool {
    let own = matches!(status.code(), Code::Unknown | Code::Cancelled);
    let mut source = status.source();
    while let Some(error) = source.filter(|_| own) {
        if error.is::<tonic::transport::Error>() || error.is::<hyper::Error>() {
            return true;
        }
        source = error.source();
    }
    false
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => formatter.write_str(self.code.description()),
            message => formatter.write_str(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn details_are_read_from_calls_and_operations() {
        let range = [("range".to_owned(), "1-2".to_owned())];
        let mut details = ErrorDetails::with_error_info("PORTS_EXHAUSTED", "howdah.dev", range);
        details.set_retry_info(Some(Duration::from_secs(3)));
        details.add_bad_request_violation("instance.version", "is no version");
        let status = Status::with_error_details(Code::ResourceExhausted, "no port", details);
        let operation = rpc::Status::decode(status.details()).unwrap();
        for failure in [Failure::from(&status), Failure::of_operation(operation)] {
            assert_eq!(failure.code, Code::ResourceExhausted);
            assert_eq!(failure.reason, "PORTS_EXHAUSTED");
            assert_eq!(failure.to_string(), "no port");
            assert_eq!(failure.metadata["range"], "1-2");
            assert_eq!(failure.fields[0].0, "instance.version");
            assert_eq!(failure.retry_after, Some(Duration::from_secs(3)));
        }
    }

    #[test]
    fn a_status_without_details_is_read_too() {
        let failure = Failure::from(&Status::cancelled(TIMEOUT_EXPIRED));
        assert_eq!(
            (failure.code, failure.reason.as_str()),
            (Code::DeadlineExceeded, "")
        );
    }
}
