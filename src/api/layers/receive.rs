//! Receives requests completely before they are served.
//!
//! Until then a call holds no permit, only bytes, which are limited for the process, the caller
//! and the connection, and in time. Most requests are one frame, which is passed on as it is and
//! not counted.
//!
//! A compressed message is [decompressed](super::compressed), up to the same limit.
//!
//! If the caller sends a stream, its handler reads at its own speed. The bytes that may lie
//! unread, the stream's window, are counted while the call lasts.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Request, request::Parts};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower::{BoxError, Layer, Service};

use crate::{
    api::budget::{
        Budgets, Caller,
        unfinished::{LEAST, Purse, Unfinished},
    },
    domain::{Error, Reason},
};

use super::{
    Response,
    body::Polled,
    compressed::{Encoding, choose_answers, refused},
    method_of,
};

/// Bytes before a message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// Receives the requests of a service.
#[derive(Clone, Debug)]
pub(in crate::api) struct ReceiveLayer {
    /// Counts the bytes of incomplete requests.
    pub(in crate::api) budgets: Arc<Budgets>,
    /// Limits of one request.
    pub(in crate::api) bounds: Bounds,
}

/// Limits of one request.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) struct Bounds {
    /// Longest time from its headers to its end.
    pub(in crate::api) time: Duration,
    /// Largest message in bytes.
    pub(in crate::api) message: usize,
    /// Bytes that a caller may send before they are read.
    pub(in crate::api) window: usize,
}

impl<S> Layer<S> for ReceiveLayer {
    type Service = Receive<S>;

    fn layer(&self, inner: S) -> Receive<S> {
        Receive {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service that gets complete requests.
#[derive(Clone, Debug)]
pub(in crate::api) struct Receive<S> {
    inner: S,
    layer: ReceiveLayer,
}

impl<S, B> Service<Request<B>> for Receive<S>
where
    S: Service<Request<Received<B>>, Response = Response, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Receiving<S, S::Future, B>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let method = method_of(&request).cloned();
        let method = method.as_deref();
        choose_answers(method, request.headers_mut());
        let streams = method.is_some_and(|method| method.client_streaming);
        let caller = request.extensions().get::<Arc<Caller>>();
        let purse = Purse::of(method);
        let mut unfinished = Unfinished::new(&self.layer.budgets, caller, purse);
        if streams {
            return match unfinished.hold(self.layer.bounds.window) {
                Err(refusal) => Receiving::refused(refusal),
                Ok(()) => {
                    let request = request.map(|body| Received::streamed(body, unfinished));
                    Receiving::Answering {
                        answer: self.inner.call(request),
                    }
                }
            };
        }
        let encoding = match Encoding::take(request.headers_mut()) {
            Ok(encoding) => encoding,
            Err(refusal) => return Receiving::refused(refusal),
        };
        let (parts, body) = request.into_parts();
        // The call takes the service that is ready; its clone stays here.
        let next = self.inner.clone();
        let service = std::mem::replace(&mut self.inner, next);
        Receiving::Arriving {
            call: Some((service, parts)),
            body,
            message: Message {
                bounds: self.layer.bounds,
                encoding,
                first: Bytes::new(),
                whole: BytesMut::new(),
                unfinished,
            },
            late: None,
        }
    }
}

pin_project! {
    /// A call whose request is arriving, and then its response.
    #[project = Stage]
    pub(in crate::api) enum Receiving<S, F, B> {
        Arriving {
            call: Option<(S, Parts)>,
            #[pin]
            body: B,
            message: Message,
            // The timer; set when the request does not arrive at once.
            #[pin]
            late: Option<Sleep>,
        },
        Answering {
            #[pin]
            answer: F,
        },
        Refused {
            response: Option<Response>,
        },
    }
}

impl<S, F, B> Receiving<S, F, B> {
    fn refused(refusal: Error) -> Self {
        Self::Refused {
            response: Some(refused(refusal)),
        }
    }
}

impl<S, B> Future for Receiving<S, S::Future, B>
where
    S: Service<Request<Received<B>>, Response = Response, Error = Infallible>,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                Stage::Answering { answer } => return answer.poll(context),
                // Polled after completion, which the contract of futures forbids.
                Stage::Refused { response } => {
                    return response
                        .take()
                        .map_or(Poll::Pending, |it| Poll::Ready(Ok(it)));
                }
                Stage::Arriving {
                    call,
                    body,
                    message,
                    late,
                } => match (ready!(message.poll(body, late, context)), call.take()) {
                    (Err(refusal), _) => Self::refused(refusal),
                    (Ok(body), Some((mut service, parts))) => Self::Answering {
                        answer: service.call(Request::from_parts(parts, body)),
                    },
                    (Ok(_), None) => return Poll::Pending,
                },
            };
            self.set(next);
        }
    }
}

/// The error for a request that the client has aborted, or whose connection was lost.
fn broken_off(error: BoxError) -> Error {
    let message = "the client has broken the request off";
    let error = error.to_string();
    tracing::debug!(error, "a request did not arrive");
    Error::new(Reason::OperationCancelled, message)
}

/// The part of a request that has arrived.
#[derive(Debug)]
pub(in crate::api) struct Message {
    bounds: Bounds,
    encoding: Encoding,
    /// The first frame, as it came.
    first: Bytes,
    /// All frames, if there are several. They are copied, because a small frame may keep a large
    /// part of the read buffer alive.
    whole: BytesMut,
    unfinished: Unfinished,
}

impl Message {
    /// Reads the body to its end.
    fn poll<B>(
        &mut self,
        mut body: Pin<&mut B>,
        mut late: Pin<&mut Option<Sleep>>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Received<B>, Error>>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        while !body.is_end_stream() {
            match body.as_mut().poll_frame(context) {
                // gRPC gives no meaning to the trailers of a request.
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.push(data)?,
                    Err(_) => break,
                },
                Poll::Ready(None) => break,
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(broken_off(error.into())));
                }
                Poll::Pending => {
                    self.unfinished.hold(LEAST)?;
                    if late.is_none() {
                        late.set(Some(sleep(self.bounds.time)));
                    }
                    if let Some(late) = late.as_pin_mut() {
                        ready!(late.poll(context));
                    }
                    let message = "the request has not arrived as a whole in time";
                    return Poll::Ready(Err(Error::new(Reason::RequestIncomplete, message)));
                }
            }
        }
        Poll::Ready(self.received())
    }

    fn push(&mut self, data: Bytes) -> Result<(), Error> {
        if self.first.is_empty() && self.whole.is_empty() {
            self.first = data;
            return self.check(self.first.len(), &self.first);
        }
        let length = self.first.len() + self.whole.len() + data.len();
        // The buffer grows by doubling.
        self.unfinished.hold(LEAST.max(2 * length))?;
        self.whole
            .extend_from_slice(&std::mem::take(&mut self.first));
        self.whole.extend_from_slice(&data);
        self.check(length, &self.whole)
    }

    /// Refuses a message that is too large as soon as its length is known.
    fn check(&self, length: usize, bytes: &[u8]) -> Result<(), Error> {
        let declared = match bytes {
            [_, a, b, c, d, ..] => u32::from_be_bytes([*a, *b, *c, *d]) as usize,
            _ => 0,
        };
        if declared.max(length.saturating_sub(HEAD)) <= self.bounds.message {
            return Ok(());
        }
        let message = "the message is larger than this server takes";
        Err(Error::new(Reason::MessageTooLarge, message))
    }

    fn received<B>(&mut self) -> Result<Received<B>, Error> {
        let arrived = match self.whole.is_empty() {
            true => std::mem::take(&mut self.first),
            false => std::mem::take(&mut self.whole).freeze(),
        };
        check_count(&arrived)?;
        let length = arrived.len();
        let bytes = self.encoding.decompress(arrived, self.bounds.message)?;
        if bytes.len() > length {
            self.unfinished.hold(LEAST.max(length + bytes.len()))?;
        }
        Ok(Received {
            bytes,
            rest: None,
            unfinished: self.unfinished.take(),
        })
    }
}

/// Refuses a request that is not exactly one message (gRPC's `doc/statuscodes.md`, request
/// cardinality violation). A truncated message is left to the decoder.
fn check_count(request: &[u8]) -> Result<(), Error> {
    let message = match request {
        [] => "the request has no message",
        [_, a, b, c, d, rest @ ..]
            if rest.len() > u32::from_be_bytes([*a, *b, *c, *d]) as usize =>
        {
            "the request has more than one message"
        }
        _ => return Ok(()),
    };
    Err(Error::new(Reason::MessageCountInvalid, message))
}

pin_project! {
    /// A request that has arrived, or whose caller sends a stream.
    #[derive(Debug)]
    pub(in crate::api) struct Received<B> {
        bytes: Bytes,
        #[pin]
        rest: Option<B>,
        // Counts the bytes until they are decoded.
        unfinished: Unfinished,
    }
}

impl<B> Received<B> {
    const fn streamed(body: B, unfinished: Unfinished) -> Self {
        Self {
            bytes: Bytes::new(),
            rest: Some(body),
            unfinished,
        }
    }
}

impl<B> Body for Received<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled<Self> {
        let this = self.project();
        if !this.bytes.is_empty() {
            let bytes = std::mem::take(this.bytes);
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match this.rest.as_pin_mut() {
            Some(rest) => rest.poll_frame(context).map_err(Into::into),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.bytes.len() as u64),
        }
    }
}
