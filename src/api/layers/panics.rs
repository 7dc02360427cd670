//! Turns the panic of a handler into INTERNAL; the connection stays open.
//!
//! The hook of the process logs and counts the panic (`telemetry::panics`). The caller does not
//! get its message.

use std::{
    any::Any,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use futures::future::{CatchUnwind, FutureExt as _};
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use tonic::Status;
use tower::{Layer, Service};

use crate::domain::Error;

use super::{
    Response,
    answer::{Answered, OnAnswer},
    body::{Polled, Watch, Watched},
};

/// Catches the panics of a service.
#[derive(Clone, Copy, Debug)]
pub struct PanicLayer;

impl<S> Layer<S> for PanicLayer {
    type Service = Caught<S>;

    fn layer(&self, inner: S) -> Caught<S> {
        Caught(inner)
    }
}

/// A service whose panics are caught.
#[derive(Clone, Debug)]
pub struct Caught<S>(S);

impl<S, B> Service<Request<B>> for Caught<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = http::Response<Watched<tonic::body::Body, Catch>>;
    type Error = Infallible;
    type Future = Answered<CatchUnwind<AssertUnwindSafe<S::Future>>, Catch>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let future = AssertUnwindSafe(self.0.call(request)).catch_unwind();
        Answered::new(future, Catch { ended: false })
    }
}

/// Catches panics of the future and of the body.
#[derive(Debug)]
pub struct Catch {
    ended: bool,
}

type Outcome = Result<Result<Response, Infallible>, Box<dyn Any + Send>>;

impl OnAnswer<Outcome> for Catch {
    type Response = http::Response<Watched<tonic::body::Body, Self>>;

    fn answer(self, output: Outcome) -> Self::Response {
        let response = match output {
            Ok(Ok(response)) => response,
            Err(_) => panicked().into_http(),
        };
        response.map(|body| Watched::new(body, self))
    }
}

impl<B: Body> Watch<B> for Catch {
    fn poll(&mut self, body: Pin<&mut B>, context: &mut Context<'_>) -> Polled<B> {
        if self.ended {
            return Poll::Ready(None);
        }
        catch_unwind(AssertUnwindSafe(|| body.poll_frame(context))).unwrap_or_else(|_| {
            self.ended = true;
            let mut trailers = HeaderMap::new();
            let _ = panicked().add_header(&mut trailers);
            Poll::Ready(Some(Ok(Frame::trailers(trailers))))
        })
    }
}

fn panicked() -> Status {
    Error::internal("the handler panicked").into()
}
