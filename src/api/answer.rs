//! The answer of every mutation.

use tonic::{Response, Status};

use super::convert::operation::to_wire;
use crate::{
    domain::{Result, operation::Operation},
    pb::google::longrunning,
};

/// What a method answers.
pub(super) type Answer<T> = std::result::Result<Response<T>, Status>;

/// The answer of every mutation.
pub(super) fn answer(operation: Result<Operation>) -> Answer<longrunning::Operation> {
    Ok(Response::new(to_wire(operation?)))
}
