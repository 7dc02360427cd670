//! Long-running operations.

use prost::{Message, Name};
use prost_types::Any;

use super::{change_stream, database, instance, timestamp};
use crate::{
    api::{method, status},
    domain::{
        Error, Reason, Result,
        operation::{Failure, Operation, Outcome, Response, Stage, StageState},
    },
    pb::{
        google::longrunning,
        v1::{self, operation_metadata::stage},
    },
};

/// Converts an operation to its message. The result of `validate_only` has no name.
pub(in crate::api) fn to_wire(operation: Operation) -> longrunning::Operation {
    let name = match operation.name.operation.is_nil() {
        true => String::new(),
        false => operation.name.to_string(),
    };
    let done = operation.is_done();
    let metadata = metadata(&operation);
    let metadata = any(Some(encoded(&metadata)));
    let result = match (done, operation.failure, operation.response) {
        (false, _, _) => None,
        (true, Some(failure), _) => Some(longrunning::operation::Result::Error(error(&failure))),
        (true, None, response) => Some(longrunning::operation::Result::Response(any(response))),
    };
    longrunning::Operation {
        name,
        metadata: Some(metadata),
        done,
        result,
    }
}

fn encoded<T: Message + Name>(message: &T) -> Response {
    Response {
        type_url: type_url(&T::full_name()),
        value: message.encode_to_vec(),
    }
}

fn type_url(name: &str) -> String {
    format!("type.googleapis.com/{name}")
}

/// The stored response; an empty message if there is none.
fn any(response: Option<Response>) -> Any {
    let nothing = || Response {
        type_url: type_url("google.protobuf.Empty"),
        value: Vec::new(),
    };
    let Response { type_url, value } = response.unwrap_or_else(nothing);
    Any { type_url, value }
}

fn metadata(operation: &Operation) -> v1::OperationMetadata {
    let last_error = operation.last_error.as_ref();
    v1::OperationMetadata {
        target: operation.target.clone(),
        verb: operation.verb.clone(),
        create_time: Some(timestamp(operation.create_time)),
        end_time: operation.end_time.map(timestamp),
        stages: operation.stages.iter().map(stage_to_wire).collect(),
        cancellable: operation.cancellable,
        cancel_requested: operation.cancel_requested,
        attempt: operation.attempt,
        last_error: last_error
            .map(|error| error.message.clone())
            .unwrap_or_default(),
    }
}

fn stage_to_wire(stage: &Stage) -> v1::operation_metadata::Stage {
    let state = match stage.state {
        None => stage::State::Unspecified,
        Some(StageState::Pending) => stage::State::Pending,
        Some(StageState::Running) => stage::State::Running,
        Some(StageState::Succeeded) => stage::State::Succeeded,
        Some(StageState::Failed) => stage::State::Failed,
        Some(StageState::Undone) => stage::State::Undone,
    };
    v1::operation_metadata::Stage {
        name: stage.name.clone(),
        title: stage.title.clone(),
        state: state.into(),
        start_time: stage.start_time.map(timestamp),
        end_time: stage.end_time.map(timestamp),
        progress_percent: stage.progress_percent,
        waits_for: stage.waits_for.clone(),
    }
}

fn error(failure: &Failure) -> crate::pb::google::rpc::Status {
    let message = failure.message.clone();
    let error = match Reason::parse(&failure.reason) {
        Some(reason) => Error::new(reason, message),
        // A reason of another release, whose code this release does not know.
        None => Error::new(Reason::RecordUnreadable, message)
            .with_metadata("reason", failure.reason.clone()),
    };
    status::to_rpc(&error)
}

/// Encodes the response of an operation, which is stored.
///
/// # Errors
/// INTERNAL when the message has a field for secrets, because many callers can read what is
/// stored.
pub(in crate::api) fn encode(outcome: Outcome) -> Result<Response> {
    match outcome {
        Outcome::Instance(found) => without_secrets(&instance::to_wire(*found)),
        Outcome::Database(found) => without_secrets(&database::to_wire(*found)),
        Outcome::ChangeStream(found) => without_secrets(&change_stream::to_wire(*found)),
        Outcome::Empty => Ok(Response {
            type_url: type_url("google.protobuf.Empty"),
            value: Vec::new(),
        }),
    }
}

fn without_secrets<T: Message + Name>(message: &T) -> Result<Response> {
    if method::holds_secrets(&T::full_name())? {
        let name = T::full_name();
        return Err(Error::internal(format!("{name} has a field for secrets")));
    }
    Ok(encoded(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_hold_a_secret_is_not_encoded() {
        let connection = v1::Connection {
            password: "p".into(),
            ..v1::Connection::default()
        };
        let refused = without_secrets(&connection).unwrap_err();
        assert_eq!(refused.reason(), Reason::Internal);
        assert!(without_secrets(&v1::Instance::default()).is_ok());
        assert!(without_secrets(&v1::Database::default()).is_ok());
    }
}
