//! The layers that every call passes, from the outside to the inside:
//!
//! 1. [`trace`]: trace context, span, and the [`Call`] for the inner layers;
//! 2. [`measure`]: metrics and access log, including dropped calls;
//! 3. [`details`]: an `ErrorInfo` for every status, including those that tonic makes;
//! 4. [`send`]: limits on responses that wait for the client to read them;
//! 5. [`panics`]: a panic becomes INTERNAL;
//! 6. [`deadline`]: the caller's timeout, limited by our own cap;
//! 7. [`protocol`]: only gRPC is admitted;
//! 8. [`authenticate`]: finds the principal;
//! 9. [`rate`]: a limit on the calls per second of each caller;
//! 10. [`authorise`]: the method's permission must be granted somewhere;
//! 11. [`serving`]: nothing is served before the start is complete;
//! 12. [`end`]: streams and waits end with their connection, public streams at the drain too;
//! 13. [`receive`]: the request arrives completely, within limits of time and bytes;
//! 14. [`admit`]: permits for running calls, in total and per caller;
//! 15. [`audit`]: mutations and secrets are logged.
//!
//! The layers are always ready and hold no locks. Their futures and bodies are concrete types,
//! so a unary call whose request is one frame needs no allocation in them.

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

/// Response of the services behind the layers.
pub(super) type Response = http::Response<tonic::body::Body>;

/// Facts about a call. The first layer puts it into the request's extensions.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method that is called.
    pub method: Arc<Method>,
    /// Trace that the call belongs to.
    pub trace: TraceId,
    /// The policy that has admitted the call; set by the layer of authorisation.
    pub policy: Option<Policy>,
}

/// The method of a request; none if the request has not passed the first layer.
fn method_of<B>(request: &Request<B>) -> Option<&Arc<Method>> {
    request.extensions().get::<Call>().map(|call| &call.method)
}

/// The gRPC code in headers or trailers; none if there is none.
fn code_in(headers: &HeaderMap) -> Option<Code> {
    let value = headers.get(Status::GRPC_STATUS)?;
    Some(Code::from_bytes(value.as_bytes()))
}
