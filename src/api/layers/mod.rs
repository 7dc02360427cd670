//! What every call passes, from the outside to the inside:
//!
//! 1. [`trace`]: trace context, span, the [`Call`] that the layers below read;
//! 2. [`measure`]: metrics and access log, of calls that are dropped too;
//! 3. [`details`]: an `ErrorInfo` for every status, also for those that tonic makes;
//! 4. [`send`]: what waits for the client to read it is bounded;
//! 5. [`panics`]: a panic becomes INTERNAL;
//! 6. [`deadline`]: the caller's timeout and our own cap;
//! 7. [`protocol`]: it is a call of gRPC;
//! 8. [`authenticate`]: who calls;
//! 9. [`rate`]: how often this caller may;
//! 10. [`authorise`]: whether it may anywhere, by the method's permission;
//! 11. [`serving`]: nothing is served before the start is complete;
//! 12. [`end`]: streams and waits end with their connection, public streams at the drain too;
//! 13. [`receive`]: the request arrives as a whole, within bounds of time and bytes;
//! 14. [`admit`]: bounds on calls under way, of all callers and of each;
//! 15. [`audit`]: mutations and secrets are logged.
//!
//! The layers are always ready and hold no locks; their futures and bodies are
//! concrete types, so that a unary call whose request is one frame costs no allocation in
//! them.

pub(super) mod admit;
mod answer;
pub mod audit;
pub mod authenticate;
pub mod authorise;
mod body;
mod compressed;
pub mod deadline;
pub mod details;
pub mod end;
pub mod gate;
pub mod measure;
pub mod panics;
pub mod protocol;
pub mod rate;
pub(super) mod receive;
pub(super) mod send;
pub mod serving;
pub mod trace;

use std::sync::Arc;

use http::{Request, header::HeaderMap};
use opentelemetry::trace::TraceId;
use tonic::{Code, Status};

use super::method::Method;
use crate::auth::Policy;

/// Answer of the services behind the layers.
pub(super) type Response = http::Response<tonic::body::Body>;

/// A call on its way in, in the request's extensions from the first layer on.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method that is called.
    pub method: Arc<Method>,
    /// Trace that the call belongs to.
    pub trace: TraceId,
    /// By which it was let in, from the layer of authorisation on.
    pub policy: Option<Policy>,
}

/// The method of a request; None if the first layer was not passed.
fn method_of<B>(request: &Request<B>) -> Option<&Arc<Method>> {
    request.extensions().get::<Call>().map(|call| &call.method)
}

/// The status in headers or trailers, if there is one.
fn code_in(headers: &HeaderMap) -> Option<Code> {
    let value = headers.get(Status::GRPC_STATUS)?;
    Some(Code::from_bytes(value.as_bytes()))
}
