//! A layer that admits a request, or responds at once.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http::Request;
use pin_project_lite::pin_project;
use tonic::Status;
use tower::{Layer, Service};

use crate::domain::{Error, Result};

use super::Response;

/// Decides whether to admit requests.
pub trait Check: Clone {
    /// Admits the request, and may add extensions to it.
    ///
    /// # Errors
    /// The reason of the refusal.
    fn check<B>(&self, request: &mut Request<B>) -> Result<()>;
}

/// Puts a [`Check`] before a service.
#[derive(Clone, Debug)]
pub struct GateLayer<C>(pub C);

impl<S, C: Check> Layer<S> for GateLayer<C> {
    type Service = Gate<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Gate {
            inner,
            check: self.0.clone(),
        }
    }
}

/// A service behind a [`Check`].
#[derive(Clone, Debug)]
pub struct Gate<S, C> {
    inner: S,
    check: C,
}

impl<S, C, B> Service<Request<B>> for Gate<S, C>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
    C: Check,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Passing<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.check.check(&mut request) {
            Ok(()) => Passing::through(self.inner.call(request)),
            Err(error) => Passing::refused(error),
        }
    }
}

pin_project! {
    /// The response of the inner service, or a refusal.
    #[derive(Debug)]
    pub struct Passing<F> {
        #[pin]
        future: Option<F>,
        refusal: Option<Response>,
    }
}

impl<F> Passing<F> {
    pub(super) const fn through(future: F) -> Self {
        Self {
            future: Some(future),
            refusal: None,
        }
    }

    pub(super) fn refused(error: Error) -> Self {
        Self::answered(Status::from(error).into_http())
    }

    pub(super) const fn answered(response: Response) -> Self {
        Self {
            future: None,
            refusal: Some(response),
        }
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Passing<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match (this.future.as_pin_mut(), this.refusal.take()) {
            (Some(future), _) => future.poll(context),
            (None, Some(response)) => Poll::Ready(Ok(response)),
            // Polled after completion, which the contract of futures forbids.
            (None, None) => Poll::Pending,
        }
    }
}
