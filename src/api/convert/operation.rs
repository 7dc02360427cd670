//! Long-running operations.

use prost::{Message, Name};
use prost_types::Any;

use super::{database, instance, timestamp};
use crate::{
    api::status,
    domain::{
        Error, Reason,
        operation::{Failure, Operation, Outcome, Stage, StageState},
    },
    pb::{
        google::longrunning,
        v1::{self, operation_metadata::stage},
    },
};

/// The operation on the wire. One that was only checked has no name.
pub(in crate::api) fn to_wire(operation: Operation) -> longrunning::Operation {
    let name = match operation.name.operation.is_nil() {
        true => String::new(),
        false => operation.name.to_string(),
    };
    let done = operation.is_done();
    let metadata = any(&metadata(&operation));
    let result = match (done, operation.failure, operation.outcome) {
        (false, _, _) => None,
        (true, Some(failure), _) => Some(longrunning::operation::Result::Error(error(&failure))),
        (true, None, outcome) => Some(longrunning::operation::Result::Response(response(outcome))),
    };
    longrunning::Operation {
        name,
        metadata: Some(metadata),
        done,
        result,
    }
}

fn any<T: Message + Name>(message: &T) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", T::full_name()),
        value: message.encode_to_vec(),
    }
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
    }
}

fn error(failure: &Failure) -> crate::pb::google::rpc::Status {
    let message = failure.message.clone();
    let error = match Reason::parse(&failure.reason) {
        Some(reason) => Error::new(reason, message),
        // A reason of another release, which has its own code there.
        None => Error::new(Reason::RecordUnreadable, message)
            .with_metadata("reason", failure.reason.clone()),
    };
    status::to_rpc(&error)
}

fn response(outcome: Option<Outcome>) -> Any {
    match outcome {
        Some(Outcome::Instance(found)) => any(&instance::to_wire(*found)),
        Some(Outcome::Database(found)) => any(&database::to_wire(*found)),
        Some(Outcome::Empty) | None => Any {
            type_url: "type.googleapis.com/google.protobuf.Empty".to_owned(),
            value: Vec::new(),
        },
    }
}
