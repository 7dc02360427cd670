//! Admission: a call takes its place among those under way, or is refused at once, which
//! is cheaper for everybody than a queue that grows.
//!
//! Its request has arrived as a whole: a slow sender holds no place. A read gives its place
//! back when its answer begins. A mutation continues after its caller has left, and
//! keeps the place until it has ended. A stream keeps it to its end; its handler may keep it
//! for longer, for what the stream leaves behind.

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
        budget::{Budgets, Caller, Class, Place},
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

/// Bounds the calls of a service.
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

/// A service with a bound on its calls.
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
    type Future = Passing<Placed<S::Future>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(class) = method_of(&request).and_then(|method| Class::of(method)) else {
            return Passing::through(Placed::new(self.inner.call(request), Hold::Nothing));
        };
        let caller = request.extensions().get::<Arc<Caller>>();
        let reads = method_of(&request).is_some_and(|method| method.effect == Effect::Read);
        let hold = match (self.budgets.admit(class, caller), class) {
            (Err(refusal), _) => return Passing::refused(refusal),
            (Ok(place), Class::Call) if !reads => Hold::UntilDone(Arc::new(place)),
            (Ok(place), Class::Call | Class::Wait) => Hold::UntilAnswered(place),
            (Ok(place), Class::Stream | Class::Probe) => {
                let place = Arc::new(place);
                request.extensions_mut().insert(Arc::clone(&place));
                Hold::ToTheEnd(place)
            }
        };
        Passing::through(Placed::new(self.inner.call(request), hold))
    }
}

/// For how long a call keeps its place.
#[derive(Debug)]
enum Hold {
    /// It has none.
    Nothing,
    /// Until its answer begins.
    UntilAnswered(Place),
    /// Until its answer begins and what it has begun has ended.
    UntilDone(Arc<Place>),
    /// Until its answer has ended.
    ToTheEnd(Arc<Place>),
}

pin_project! {
    /// A call with its place among those under way.
    #[derive(Debug)]
    pub(in crate::api) struct Placed<F> {
        #[pin]
        future: F,
        hold: Hold,
    }
}

impl<F> Placed<F> {
    const fn new(future: F, hold: Hold) -> Self {
        Self { future, hold }
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Placed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = match this.hold {
            Hold::UntilDone(place) => {
                let held: Held = Arc::clone(place) as Held;
                HELD.sync_scope(held, || this.future.poll(context))
            }
            _ => this.future.poll(context),
        };
        let Ok(response) = ready!(polled);
        Poll::Ready(Ok(match std::mem::replace(this.hold, Hold::Nothing) {
            Hold::ToTheEnd(place) if !response.body().is_end_stream() => {
                response.map(|body| tonic::body::Body::new(Watched::new(body, Kept(place))))
            }
            Hold::UntilAnswered(place) => {
                drop(place);
                response
            }
            Hold::ToTheEnd(_) | Hold::UntilDone(_) | Hold::Nothing => response,
        }))
    }
}

/// Keeps the place of a stream whose answer is under way.
#[derive(Debug)]
struct Kept(#[expect(dead_code, reason = "held, and dropped with the body")] Arc<Place>);

impl<B: Body> Watch<B> for Kept {
    fn poll(&mut self, body: Pin<&mut B>, context: &mut Context<'_>) -> Polled<B> {
        body.poll_frame(context)
    }
}
