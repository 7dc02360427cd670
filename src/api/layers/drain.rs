//! Ends streams at the drain whose services do not know of it: health and reflection.
//!
//! Such a call ends with SHUTTING_DOWN after the messages that are ready. Otherwise the
//! shutdown would wait for clients that only listen. Howdah's own streams end by themselves,
//! after their last batch.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tower::{Layer, Service};

use crate::app::shutting_down;

use super::{
    Response,
    answer::{Answered, OnAnswer},
    body::{Polled, Watch, Watched},
    method_of,
};

type Draining = Pin<Box<WaitForCancellationFutureOwned>>;

/// Ends the public streams of a service when the token is cancelled.
#[derive(Clone, Debug)]
pub struct DrainLayer(pub CancellationToken);

impl<S> Layer<S> for DrainLayer {
    type Service = Drain<S>;

    fn layer(&self, inner: S) -> Drain<S> {
        Drain {
            inner,
            draining: self.0.clone(),
        }
    }
}

/// A service whose public streams end at the drain.
#[derive(Clone, Debug)]
pub struct Drain<S> {
    inner: S,
    draining: CancellationToken,
}

impl<S, B> Service<Request<B>> for Drain<S>
where
    S: Service<Request<Watched<B, Asked>>, Response = Response, Error = Infallible>,
    B: Body,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answered<S::Future, Ends>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let ends = method_of(&request).is_some_and(|method| method.streaming && method.is_public());
        let draining = || ends.then(|| Box::pin(self.draining.clone().cancelled_owned()));
        let (asked, told) = (Asked(draining()), Ends(draining()));
        let request = request.map(|body| Watched::new(body, asked));
        Answered::new(self.inner.call(request), told)
    }
}

/// Ends the caller's messages: what waits for the next one would hold its connection.
#[derive(Debug)]
pub struct Asked(Option<Draining>);

impl<B: Body> Watch<B> for Asked {
    fn poll(&mut self, body: Pin<&mut B>, context: &mut Context<'_>) -> Polled<B> {
        let next = body.poll_frame(context);
        match &mut self.0 {
            Some(draining) if next.is_pending() => draining.as_mut().poll(context).map(|()| None),
            _ => next,
        }
    }
}

/// Ends the answers.
#[derive(Debug)]
pub struct Ends(Option<Draining>);

impl OnAnswer<Result<Response, Infallible>> for Ends {
    type Response = Response;

    fn answer(self, output: Result<Response, Infallible>) -> Response {
        let Ok(response) = output;
        match self.0 {
            None => response,
            Some(draining) => response.map(|body| {
                let told = Told(Some(draining));
                tonic::body::Body::new(Watched::new(body, told))
            }),
        }
    }
}

/// Passes messages on, and ends with SHUTTING_DOWN at the drain. None: it has ended.
#[derive(Debug)]
struct Told(Option<Draining>);

impl<B: Body> Watch<B> for Told {
    fn poll(&mut self, body: Pin<&mut B>, context: &mut Context<'_>) -> Polled<B> {
        let Some(draining) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let next = body.poll_frame(context);
        let message = matches!(&next, Poll::Ready(Some(Ok(frame))) if frame.is_data());
        if message || draining.as_mut().poll(context).is_pending() {
            return next;
        }
        self.0 = None;
        let mut trailers = HeaderMap::new();
        let _ = Status::from(shutting_down()).add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}
