//! The response of mutations.

use tonic::{Response, Status};

use super::convert::operation::to_wire;
use crate::{
    domain::{Result, operation::Operation},
    pb::google::longrunning,
};

/// Result of a method.
pub(super) type Answer<T> = std::result::Result<Response<T>, Status>;

/// The response of a mutation: its operation.
pub(super) fn answer(operation: Result<Operation>) -> Answer<longrunning::Operation> {
    Ok(Response::new(to_wire(operation?)))
}
