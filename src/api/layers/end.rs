//! Ends streams and waits together with their connection, and public streams at the drain.
//!
//! When the grace after GOAWAY is over, the streams and waits of a connection end with
//! CONNECTION_ENDING, so that clients know that they can continue on another connection.
//!
//! At the drain, streams of health and reflection end with SHUTTING_DOWN after the messages that
//! are ready. Their services do not know of the drain, and without this the shutdown would wait
//! for clients that only listen. Howdah's own streams end by themselves, after their last batch.

use std::{
    convert::Infallible,
    future::pending,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::{Layer, Service};

use crate::{
    api::{budget::Caller, ending},
    app::shutting_down,
    domain::Error,
};

use super::{
    Response,
    body::{Polled, Watch, Watched},
    method_of,
};

/// Reason why a call ends.
#[derive(Clone, Copy, Debug)]
enum Why {
    Drain,
    Connection,
}

impl Why {
    fn error(self) -> Error {
        match self {
            Self::Drain => shutting_down(),
            Self::Connection => ending::ended(),
        }
    }
}

type Ending = Pin<Box<dyn Future<Output = Why> + Send>>;

/// Waits for the drain, if it ends this call, or for the end of the connection.
fn ending(draining: Option<CancellationToken>, caller: Option<Arc<Caller>>) -> Ending {
    Box::pin(async move {
        let drained = async {
            match &draining {
                Some(draining) => draining.cancelled().await,
                None => pending().await,
            }
        };
        let connection = async {
            match &caller {
                Some(caller) => caller.ending.finished().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = drained => Why::Drain,
            () = connection => Why::Connection,
        }
    })
}

/// Ends streams and waits of a service with their connection, and public streams when the token
/// is cancelled.
#[derive(Clone, Debug)]
pub struct EndLayer(pub CancellationToken);

impl<S> Layer<S> for EndLayer {
    type Service = End<S>;

    fn layer(&self, inner: S) -> End<S> {
        End {
            inner,
            draining: self.0.clone(),
        }
    }
}

/// A service whose streams and waits end with their connection.
#[derive(Clone, Debug)]
pub struct End<S> {
    inner: S,
    draining: CancellationToken,
}

impl<S, B> Service<Request<B>> for End<S>
where
    S: Service<Request<Watched<B, Asked>>, Response = Response, Error = Infallible>,
    B: Body,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Ends<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let caller = request.extensions().get::<Arc<Caller>>();
        let method = method_of(&request);
        let lasts = method.is_some_and(|method| method.streaming || method.waits);
        let drains = method.is_some_and(|method| method.streaming && method.is_public());
        let end = || {
            let draining = drains.then(|| self.draining.clone());
            ending(draining, caller.cloned())
        };
        let asks = method.is_some_and(|method| method.client_streaming);
        let (asked, ending) = (Asked(asks.then(end)), lasts.then(end));
        let request = request.map(|body| Watched::new(body, asked));
        Ends {
            future: self.inner.call(request),
            ending,
            drains,
        }
    }
}

/// Ends the stream of the caller's messages. Otherwise a handler that waits for the next message
/// would keep its connection open.
pub struct Asked(Option<Ending>);

impl<B: Body> Watch<B> for Asked {
    fn poll(&mut self, body: Pin<&mut B>, context: &mut Context<'_>) -> Polled<B> {
        let next = body.poll_frame(context);
        match &mut self.0 {
            Some(ending) if next.is_pending() => ending.as_mut().poll(context).map(|_| None),
            _ => next,
        }
    }
}

pin_project! {
    /// A call, and the event that ends it before its response begins.
    pub struct Ends<F> {
        #[pin]
        future: F,
        ending: Option<Ending>,
        drains: bool,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Ends<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        match (this.future.poll(context), &mut *this.ending) {
            (Poll::Ready(Ok(response)), Some(_)) if response.body().is_end_stream() => {
                Poll::Ready(Ok(response))
            }
            (Poll::Ready(Ok(response)), Some(_)) => {
                let told = Told {
                    ending: this.ending.take(),
                    why: None,
                    drains: *this.drains,
                };
                let response =
                    response.map(|body| tonic::body::Body::new(Watched::new(body, told)));
                Poll::Ready(Ok(response))
            }
            (Poll::Pending, Some(ending)) => ending
                .as_mut()
                .poll(context)
                .map(|why| Ok(Status::from(why.error()).into_http())),
            (polled, None) => polled,
        }
    }
}

/// Passes messages on, and ends with the status after the event.
struct Told {
    /// None after the event.
    ending: Option<Ending>,
    /// The event, until its status was sent.
    why: Option<Why>,
    drains: bool,
}

impl<B: Body> Watch<B> for Told {
    fn poll(&mut self, body: Pin<&mut B>, context: &mut Context<'_>) -> Polled<B> {
        if let Some(ending) = &mut self.ending
            && let Poll::Ready(why) = ending.as_mut().poll(context)
        {
            (self.ending, self.why) = (None, Some(why));
        }
        let next = match self.why {
            None if self.ending.is_none() => return Poll::Ready(None),
            // A frame holds complete messages. A subscription may always have another one ready.
            Some(_) if !self.drains => Poll::Pending,
            _ => body.poll_frame(context),
        };
        let message = matches!(&next, Poll::Ready(Some(Ok(frame))) if frame.is_data());
        let Some(why) = self.why.take_if(|_| !message) else {
            return next;
        };
        let mut trailers = HeaderMap::new();
        let _ = Status::from(why.error()).add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self, body: &B) -> bool {
        match (&self.ending, self.why) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(_), _) => body.is_end_stream(),
        }
    }
}
