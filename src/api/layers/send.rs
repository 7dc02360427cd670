//! Limits responses that wait for the client to read them.
//!
//! HTTP/2 keeps a response until the client's window admits it. The bytes of waiting responses
//! are counted for the process, the caller and the connection. A response above a limit is
//! replaced by an error. [`unread`](crate::api::unread) limits how long one may wait.
//!
//! A response is sent in pieces, so that slow reading can be told from no reading. Its last byte
//! is a piece of its own: when HTTP/2 asks for it, everything before it has left. Otherwise the
//! call would end while its response still waits.

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

/// Responses up to this size are not counted, because their headers are as large.
const SMALL: usize = 1024;

/// Most bytes of a piece. A client must read each piece within the write timeout.
const PIECE: usize = 32 * 1024;

/// Limits the responses of a service.
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

/// A service whose responses are limited.
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

/// A response that is being sent.
#[derive(Debug)]
pub(in crate::api) struct Sending {
    unread: Unfinished,
    /// Whether it has many messages. They are read one by one, and the number of streams is
    /// limited.
    streams: bool,
    reader: Reader,
    /// The part that was not sent yet.
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
    /// Counts a response, and returns its first piece.
    fn data(&mut self, data: Bytes) -> Result<Bytes, Error> {
        if self.streams || data.len() <= SMALL {
            return Ok(data);
        }
        self.unread.hold(data.len())?;
        self.rest = data;
        Ok(self.piece())
    }

    /// The next piece. The last piece is one byte.
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
