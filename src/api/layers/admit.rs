//! Takes a permit for each call, or refuses the call at once. A refusal costs less than a
//! growing queue.
//!
//! The request has arrived completely before, so a slow sender holds no permit. A read gives its
//! permit back when its response begins. A mutation continues when its caller goes away, and
//! keeps its permit until it has ended. A stream keeps its permit to its end; its handler may
//! keep it longer, until the objects of the stream are removed.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Request;
use http_body::Body;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    api::{
        budget::{Budgets, Caller, Class, Permit},
        method::Effect,
    },
    app::{HELD, Held},
};

use super::{
    Response,
    body::{Polled, Watch, Watched},
    gate::Passing,
    method_of,
};

/// Limits the calls of a service.
#[derive(Clone, Debug)]
pub(in crate::api) struct AdmitLayer(pub(in crate::api) Arc<Budgets>);

impl<S> Layer<S> for AdmitLayer {
    type Service = Admit<S>;

    fn layer(&self, inner: S) -> Admit<S> {
        Admit {
            inner,
            budgets: Arc::clone(&self.0),
        }
    }
}

/// A service with a limit on its calls.
#[derive(Clone, Debug)]
pub(in crate::api) struct Admit<S> {
    inner: S,
    budgets: Arc<Budgets>,
}

impl<S, B> Service<Request<B>> for Admit<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Passing<Permitted<S::Future>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(class) = method_of(&request).and_then(|method| Class::of(method)) else {
            return Passing::through(Permitted::new(self.inner.call(request), Hold::Nothing));
        };
        let caller = request.extensions().get::<Arc<Caller>>();
        let reads = method_of(&request).is_some_and(|method| method.effect == Effect::Read);
        let hold = match (self.budgets.admit(class, caller), class) {
            (Err(refusal), _) => return Passing::refused(refusal),
            (Ok(permit), Class::Call) if !reads => Hold::UntilDone(Arc::new(permit)),
            (Ok(permit), Class::Call | Class::Wait) => Hold::UntilAnswered(permit),
            (Ok(permit), Class::Stream | Class::Probe) => {
                let permit = Arc::new(permit);
                request.extensions_mut().insert(Arc::clone(&permit));
                Hold::ToTheEnd(permit)
            }
        };
        Passing::through(Permitted::new(self.inner.call(request), hold))
    }
}

/// How long a call keeps its permit.
#[derive(Debug)]
enum Hold {
    /// It has no permit.
    Nothing,
    /// Until its response begins.
    UntilAnswered(Permit),
    /// Until its response has begun and all work that it has started has ended.
    UntilDone(Arc<Permit>),
    /// Until its response has ended.
    ToTheEnd(Arc<Permit>),
}

pin_project! {
    /// A call and its permit.
    #[derive(Debug)]
    pub(in crate::api) struct Permitted<F> {
        #[pin]
        future: F,
        hold: Hold,
    }
}

impl<F> Permitted<F> {
    const fn new(future: F, hold: Hold) -> Self {
        Self { future, hold }
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Permitted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = match this.hold {
            Hold::UntilDone(permit) => {
                let held: Held = Arc::clone(permit) as Held;
                HELD.sync_scope(held, || this.future.poll(context))
            }
            _ => this.future.poll(context),
        };
        let Ok(response) = ready!(polled);
        Poll::Ready(Ok(match std::mem::replace(this.hold, Hold::Nothing) {
            Hold::ToTheEnd(permit) if !response.body().is_end_stream() => {
                response.map(|body| tonic::body::Body::new(Watched::new(body, Kept(permit))))
            }
            Hold::UntilAnswered(permit) => {
                drop(permit);
                response
            }
            Hold::ToTheEnd(_) | Hold::UntilDone(_) | Hold::Nothing => response,
        }))
    }
}

/// Keeps the permit of a stream until its response has ended.
#[derive(Debug)]
struct Kept(#[expect(dead_code, reason = "held, and dropped with the body")] Arc<Permit>);

impl<B: Body> Watch<B> for Kept {
    fn poll(&mut self, body: Pin<&mut B>, context: &mut Context<'_>) -> Polled<B> {
        body.poll_frame(context)
    }
}
