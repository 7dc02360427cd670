//! Answers on their way out: what waits for the client to read it is bounded.
//!
//! HTTP/2 keeps an answer until the client's window lets it go. The bytes of the answers
//! that wait are counted for the process, the caller and the connection, and an answer
//! above a bound is replaced by an error. How long one may wait is bounded by
//! [`unread`](crate::api::unread).
//!
//! An answer goes in pieces, so that one which is read slowly is seen to be read. Its last
//! byte goes by itself: what is before it has left when that byte is asked for. Without this
//! the call would have ended while its answer still waits.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use tonic::Status;
use tower::{Layer, Service};

use crate::{
    api::{
        budget::{
            Budgets, Caller,
            unfinished::{Purse, Unfinished},
        },
        method::Method,
        unread::{Reader, note},
    },
    domain::Error,
};

use super::{
    answer::{Answered, OnAnswer},
    body::{Polled, Watch, Watched},
    method_of,
};

/// Answers up to this are not counted: their headers take as much.
const SMALL: usize = 1024;

/// Most bytes of a piece. A client has the write timeout for each.
const PIECE: usize = 32 * 1024;

/// Bounds the answers of a service.
#[derive(Clone, Debug)]
pub(in crate::api) struct SendLayer(pub(in crate::api) Arc<Budgets>);

impl<S> Layer<S> for SendLayer {
    type Service = Send<S>;

    fn layer(&self, inner: S) -> Send<S> {
        Send {
            inner,
            budgets: Arc::clone(&self.0),
        }
    }
}

/// A service whose answers are bounded.
#[derive(Clone, Debug)]
pub(in crate::api) struct Send<S> {
    inner: S,
    budgets: Arc<Budgets>,
}

impl<S, B, R> Service<Request<B>> for Send<S>
where
    S: Service<Request<B>, Response = http::Response<R>, Error = Infallible>,
    R: Body<Data = Bytes>,
{
    type Response = http::Response<Watched<R, Sending>>;
    type Error = Infallible;
    type Future = Answered<S::Future, Sending>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let caller = request.extensions().get::<Arc<Caller>>();
        let method = method_of(&request).map(Arc::as_ref);
        let sending = Sending {
            unread: Unfinished::new(&self.budgets, caller, Purse::Answers),
            streams: method.is_some_and(|method| method.streaming),
            reader: match method {
                Some(method) if method.streaming && !Method::is_public(method) => Reader::OfStream,
                _ => Reader::OfCall,
            },
            rest: Bytes::new(),
            refused: false,
        };
        Answered::new(self.inner.call(request), sending)
    }
}

/// An answer on its way.
#[derive(Debug)]
pub(in crate::api) struct Sending {
    unread: Unfinished,
    /// Whether there are many messages. They are read one by one, and the number of
    /// streams is bounded.
    streams: bool,
    reader: Reader,
    /// What was not asked for yet.
    rest: Bytes,
    refused: bool,
}

impl<R: Body<Data = Bytes>> OnAnswer<Result<http::Response<R>, Infallible>> for Sending {
    type Response = http::Response<Watched<R, Self>>;

    fn answer(self, output: Result<http::Response<R>, Infallible>) -> Self::Response {
        let Ok(response) = output;
        response.map(|body| Watched::new(body, self))
    }
}

impl Sending {
    /// Counts an answer, and answers its first piece.
    fn data(&mut self, data: Bytes) -> Result<Bytes, Error> {
        if self.streams || data.len() <= SMALL {
            return Ok(data);
        }
        self.unread.hold(data.len())?;
        self.rest = data;
        Ok(self.piece())
    }

    /// The next piece; the last one is a byte.
    fn piece(&mut self) -> Bytes {
        let before_last = self.rest.len().saturating_sub(1);
        self.rest.split_to(before_last.clamp(1, PIECE))
    }
}

impl<B> Watch<B> for Sending
where
    B: Body<Data = Bytes>,
{
    fn poll(&mut self, body: Pin<&mut B>, context: &mut Context<'_>) -> Polled<B> {
        note(None);
        if !self.rest.is_empty() {
            note(Some(self.reader));
            return Poll::Ready(Some(Ok(Frame::data(self.piece()))));
        }
        if self.refused {
            return Poll::Ready(None);
        }
        let frame = match ready!(body.poll_frame(context)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        let sent = match frame.into_data() {
            Ok(data) => self.data(data),
            Err(frame) => return Poll::Ready(Some(Ok(frame))),
        };
        Poll::Ready(Some(Ok(match sent {
            Ok(data) => {
                note(Some(self.reader));
                Frame::data(data)
            }
            Err(error) => {
                self.refused = true;
                let mut trailers = HeaderMap::new();
                let _ = Status::from(error).add_header(&mut trailers);
                Frame::trailers(trailers)
            }
        })))
    }

    fn is_end_stream(&self, body: &B) -> bool {
        self.refused || (self.rest.is_empty() && body.is_end_stream())
    }
}
