//! Converts errors to gRPC statuses with `google.rpc` details.
//!
//! Statuses are made only here. Each has an `ErrorInfo` with the domain [`DOMAIN`], and other
//! details where they apply. In total a status has less than 4 KiB, because many clients refuse
//! trailers above 8 KiB.

use std::{collections::HashMap, time::Duration};

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, ErrorInfo, FieldViolation, StatusExt as _};

use crate::{
    domain::{Error, Kind, Reason},
    telemetry::flood,
};

/// `ErrorInfo.domain` of all errors.
pub const DOMAIN: &str = "howdah.dev";

/// Most bytes of a message; a longer one is cut.
const MAX_MESSAGE: usize = 1024;
/// Most bytes of the message of a status whose details did not fit.
const MAX_LEAN_MESSAGE: usize = 512;
/// Most bytes of any other text.
const MAX_TEXT: usize = 256;
const MAX_ENTRIES: usize = 16;
/// Most bytes of message and details in HTTP/2 headers.
const MAX_WIRE: usize = 4096 - 256;
/// When to retry, if the error does not say it.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The gRPC code of a kind of error.
#[must_use]
pub const fn code(kind: Kind) -> Code {
    match kind {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::Aborted => Code::Aborted,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::Unavailable => Code::Unavailable,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Cancelled => Code::Cancelled,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Internal => Code::Internal,
    }
}

/// Name of a code, as in `rpc.response.status_code`.
#[must_use]
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

impl From<Error> for Status {
    /// Logs the internal half of the error once, and gives the external half to the caller.
    fn from(error: Error) -> Self {
        log(&error);
        build(&error, field_violation(&error).into_iter().collect())
    }
}

/// The status of an error that several fields of a request have caused.
#[must_use]
pub fn with_violations(error: &Error, violations: Vec<(String, String)>) -> Status {
    let violations = violations
        .into_iter()
        .take(MAX_ENTRIES)
        .map(|(field, description)| {
            FieldViolation::new(cut(&field, MAX_TEXT), cut(&description, MAX_TEXT))
        })
        .collect();
    build(error, violations)
}

/// The error in a message of an operation or a stream: with the same code, message and details
/// as the status. Logs nothing.
#[must_use]
pub fn to_rpc(error: &Error) -> crate::pb::google::rpc::Status {
    let status = build(error, field_violation(error).into_iter().collect());
    crate::pb::google::rpc::Status::decode(status.details()).unwrap_or_default()
}

fn log(error: &Error) {
    let detail = error.internal_detail();
    let reason = error.reason().as_str();
    let silent = error.kind() != Kind::Internal && detail.is_empty();
    if silent || !flood::admits("call failed", reason) {
        return;
    }
    if error.kind() == Kind::Internal {
        tracing::error!(reason, detail, "internal error");
    } else {
        tracing::warn!(reason, detail, "call failed");
    }
}

fn build(error: &Error, violations: Vec<FieldViolation>) -> Status {
    let status = assemble(error, MAX_MESSAGE, full_details(error, violations));
    if wire_size(&status) <= MAX_WIRE {
        return status;
    }
    let mut lean = ErrorDetails::new();
    lean.set_error_info(error.reason().as_str(), DOMAIN, HashMap::new());
    set_retry(&mut lean, error);
    assemble(error, MAX_LEAN_MESSAGE, lean)
}

fn assemble(error: &Error, length: usize, details: ErrorDetails) -> Status {
    let message = cut(error.message(), length);
    Status::with_error_details(code(error.kind()), message, details)
}

/// Bytes in headers: the message is percent-encoded, the details are in base64.
fn wire_size(status: &Status) -> usize {
    let message: usize = status
        .message()
        .bytes()
        .map(|byte| if byte.is_ascii_graphic() { 1 } else { 3 })
        .sum();
    message + status.details().len().div_ceil(3) * 4
}

fn full_details(error: &Error, violations: Vec<FieldViolation>) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    let info = error_info(error);
    details.set_error_info(info.reason, info.domain, info.metadata);
    if !violations.is_empty() {
        details.set_bad_request(violations);
    }
    if let Some(name) = error.resource() {
        let message = cut(error.message(), MAX_TEXT);
        details.set_resource_info(resource_type(name), cut(name, MAX_TEXT), "", message);
    }
    set_retry(&mut details, error);
    set_failure(&mut details, error);
    details
}

fn error_info(error: &Error) -> ErrorInfo {
    let metadata: HashMap<_, _> = error
        .metadata()
        .iter()
        .take(MAX_ENTRIES)
        .map(|(key, value)| (cut(key, MAX_TEXT), cut(value, MAX_TEXT)))
        .collect();
    ErrorInfo::new(error.reason().as_str(), DOMAIN, metadata)
}

fn set_retry(details: &mut ErrorDetails, error: &Error) {
    let default = error.retryable().then_some(RETRY_DELAY);
    if let Some(delay) = error.retry_after().or(default) {
        details.set_retry_info(Some(delay));
    }
}

fn set_failure(details: &mut ErrorDetails, error: &Error) {
    let subject = cut(error.resource().unwrap_or_default(), MAX_TEXT);
    let description = cut(error.message(), MAX_TEXT);
    match error.kind() {
        Kind::FailedPrecondition => {
            let reason = error.reason().as_str();
            details.add_precondition_failure_violation(reason, subject, description);
        }
        Kind::ResourceExhausted => {
            details.add_quota_failure_violation(subject, description);
        }
        _ => {}
    }
}

fn field_violation(error: &Error) -> Option<FieldViolation> {
    let field = error.field()?;
    let description = cut(error.message(), MAX_TEXT);
    Some(FieldViolation::new(cut(field, MAX_TEXT), description))
}

/// Type of a resource, from the last collection in its name.
fn resource_type(name: &str) -> &'static str {
    match name.rsplit('/').nth(1) {
        Some("projects") => "howdah.dev/Project",
        Some("instances") => "howdah.dev/Instance",
        Some("servers") => "howdah.dev/Server",
        Some("databases") => "howdah.dev/Database",
        Some("operations") => "howdah.dev/Operation",
        _ => "",
    }
}

/// The first `limit` bytes of a text, cut between characters.
fn cut(text: &str, limit: usize) -> String {
    text.chars()
        .scan(0, |length, char| {
            *length += char.len_utf8();
            (*length <= limit).then_some(char)
        })
        .collect()
}

/// Howdah's reason in a status; none if it has none.
#[must_use]
pub fn reason(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN)
        .then(|| Reason::parse(&info.reason))
        .flatten()
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn each_reason_has_its_code_and_error_info() {
        for reason in Reason::ALL {
            let status = Status::from(Error::new(*reason, "no"));
            assert_eq!(status.code(), code(reason.kind()));
            assert_eq!(super::reason(&status), Some(*reason));
            assert_eq!(
                status.get_details_retry_info().is_some(),
                reason.retryable()
            );
        }
    }

    #[test]
    fn stays_under_four_kibibytes_whatever_it_is_given() {
        let long = "ä\n".repeat(4000);
        let mut error = Error::new(Reason::InstanceNotReady, long.clone())
            .with_resource(format!("projects/p/instances/{long}"))
            .with_field(long.clone());
        for number in 0..40 {
            error = error.with_metadata(format!("{number}{long}"), long.clone());
        }
        let violations = vec![(long.clone(), long); 40];
        let status = with_violations(&error, violations);
        let headers = status
            .into_http::<tonic::body::Body>()
            .into_parts()
            .0
            .headers;
        let size: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        assert!(size < 4096, "{size}");
    }

    #[test]
    fn internal_half_does_not_leave() {
        let error = Error::internal("at /var/lib").with_source(std::io::Error::other("hunter2"));
        let status = Status::from(error);
        assert!(!format!("{status:?}").contains("hunter2"));
        assert!(!status.message().contains("/var/lib"));
    }

    #[test]
    fn names_what_failed() {
        let error = Error::new(Reason::InstanceNotFound, "there is no such instance")
            .with_resource("projects/default/instances/orders")
            .with_field("name");
        let status = Status::from(error);
        let resource = status.get_details_resource_info().unwrap();
        assert_eq!(resource.resource_type, "howdah.dev/Instance");
        assert_eq!(
            status.get_details_bad_request().unwrap().field_violations[0].field,
            "name"
        );
    }
}
