//! Load shed: a bound on calls that are waiting for their answer to begin.
//!
//! A call past the bound is refused at once, which is cheaper for everybody than a
//! queue that grows. A stream counts until its first headers only; the number of open
//! streams has bounds of its own. Health and reflection always pass and take no
//! place, so that a server under load is not taken for dead.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use pin_project_lite::pin_project;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::{Layer, Service};

use crate::{
    api::method::Method,
    domain::{Error, Reason},
};

use super::{Response, gate::Passing, method_of};

const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Bounds the calls of a service.
#[derive(Clone, Debug)]
pub struct ShedLayer {
    free: Arc<Semaphore>,
}

impl ShedLayer {
    /// Lets `in_flight` calls in at once.
    #[must_use]
    pub fn new(in_flight: usize) -> Self {
        let permits = in_flight.min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(permits)),
        }
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = Shed<S>;

    fn layer(&self, inner: S) -> Shed<S> {
        Shed {
            inner,
            free: Arc::clone(&self.free),
        }
    }
}

/// A service with a bound on its calls.
#[derive(Clone, Debug)]
pub struct Shed<S> {
    inner: S,
    free: Arc<Semaphore>,
}

impl<S, B> Service<Request<B>> for Shed<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Passing<Held<S::Future>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let public = method_of(&request).is_some_and(|method| Method::is_public(method));
        let free = (!public).then(|| Arc::clone(&self.free));
        let permit = free.and_then(|free| free.try_acquire_owned().ok());
        if permit.is_none() && !public {
            return Passing::refused(
                Error::new(Reason::Overloaded, "the server has too much to do")
                    .with_retry_after(RETRY_DELAY),
            );
        }
        Passing::through(Held {
            future: self.inner.call(request),
            _permit: permit,
        })
    }
}

pin_project! {
    /// A call with its place among those in flight.
    #[derive(Debug)]
    pub struct Held<F> {
        #[pin]
        future: F,
        _permit: Option<OwnedSemaphorePermit>,
    }
}

impl<F: Future> Future for Held<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(context)
    }
}
