//! Adds an `ErrorInfo` to every status that has none.
//!
//! Howdah's own statuses have one. The others come from tonic and from the health and reflection
//! services: for bytes that are not a message, for a message that is too large, for an unknown
//! method. Malformed bytes are the caller's fault, so their code becomes INVALID_ARGUMENT
//! instead of tonic's INTERNAL and OUT_OF_RANGE.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::domain::{Error, Reason};

use super::{
    answer::{Answered, OnAnswer},
    body::{Polled, Watch, Watched},
    code_in,
};

/// Beginnings of tonic's and prost's messages about requests that cannot be decoded.
const UNDECODABLE: [&str; 4] = [
    "failed to decode Protobuf message",
    "protocol error: received message",
    "Unexpected EOF decoding stream",
    "Missing request message",
];
const TOO_LARGE: &str = "Error, decoded message length too large";

/// Completes the statuses of a service.
#[derive(Clone, Copy, Debug)]
pub struct DetailsLayer;

impl<S> Layer<S> for DetailsLayer {
    type Service = Details<S>;

    fn layer(&self, inner: S) -> Details<S> {
        Details(inner)
    }
}

/// A service with complete statuses.
#[derive(Clone, Debug)]
pub struct Details<S>(S);

impl<S, B, R> Service<Request<B>> for Details<S>
where
    S: Service<Request<B>, Response = http::Response<R>, Error = Infallible>,
    R: Body,
{
    type Response = http::Response<Watched<R, Complete>>;
    type Error = Infallible;
    type Future = Answered<S::Future, Complete>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Answered::new(self.0.call(request), Complete)
    }
}

/// Completes the status in headers or trailers.
#[derive(Clone, Copy, Debug)]
pub struct Complete;

impl<R: Body> OnAnswer<Result<http::Response<R>, Infallible>> for Complete {
    type Response = http::Response<Watched<R, Self>>;

    fn answer(self, output: Result<http::Response<R>, Infallible>) -> Self::Response {
        let Ok(mut response) = output;
        complete(response.headers_mut());
        response.map(|body| Watched::new(body, self))
    }
}

impl<B: Body> Watch<B> for Complete {
    fn poll(&mut self, body: Pin<&mut B>, context: &mut Context<'_>) -> Polled<B> {
        body.poll_frame(context)
            .map_ok(|frame| match frame.into_trailers() {
                Ok(mut trailers) => {
                    complete(&mut trailers);
                    Frame::trailers(trailers)
                }
                Err(frame) => frame,
            })
    }
}

fn complete(headers: &mut HeaderMap) {
    let failed = code_in(headers).is_some_and(|code| code != Code::Ok);
    if !failed || headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return;
    }
    let Some(bare) = Status::from_header_map(headers) else {
        return;
    };
    let full = Status::from(error_of(&bare));
    // Fails only for metadata that is not a valid header, and this status has no metadata.
    let _ = full.add_header(headers);
}

fn error_of(bare: &Status) -> Error {
    let message = bare.message();
    match bare.code() {
        Code::OutOfRange if message.starts_with(TOO_LARGE) => Error::new(
            Reason::MessageTooLarge,
            "the message is larger than this server takes",
        ),
        Code::Internal if UNDECODABLE.iter().any(|start| message.starts_with(start)) => {
            Error::new(Reason::MessageUndecodable, "the bytes are no such message")
                .with_context(message)
        }
        Code::Unimplemented if message.is_empty() => {
            Error::new(Reason::Unimplemented, "there is no such method")
        }
        Code::Unimplemented => Error::new(Reason::Unimplemented, message),
        Code::InvalidArgument => Error::new(Reason::FieldInvalid, message),
        Code::NotFound => Error::new(Reason::ServiceNotFound, "there is no such service"),
        Code::Cancelled => Error::new(Reason::OperationCancelled, "the call was cancelled"),
        code => Error::internal(format!("bare status {code:?}: {message}")),
    }
}
