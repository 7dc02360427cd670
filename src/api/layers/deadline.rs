//! Deadlines of calls: the caller's `grpc-timeout`, limited by our own cap.
//!
//! The deadline of a stream ends when its response begins, so that a caller that sends no
//! request does not occupy resources for ever. Later the stream ends by itself or with its
//! connection. A mutation continues after its call has ended, because it runs in a task of its
//! own.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tower::{Layer, Service};

use crate::domain::{Error, Reason};

use super::{Response, method_of};

/// Longest times until the responses of calls begin.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// For methods that respond at once.
    pub usual: Duration,
    /// For methods that wait by design: WaitOperation.
    pub waiting: Duration,
    /// Until the request has arrived completely.
    pub request: Duration,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            usual: Duration::from_secs(60),
            waiting: Duration::from_secs(3600),
            request: Duration::from_secs(10),
        }
    }
}

/// Ends calls at their deadline.
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLayer(pub Caps);

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline {
            inner,
            caps: self.0,
        }
    }
}

/// A service whose calls end at their deadline.
#[derive(Clone, Debug)]
pub struct Deadline<S> {
    inner: S,
    caps: Caps,
}

impl<S, B> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Limited<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let deadline = self.limit(&request).map(sleep);
        Limited {
            future: self.inner.call(request),
            deadline,
        }
    }
}

impl<S> Deadline<S> {
    fn limit<B>(&self, request: &Request<B>) -> Option<Duration> {
        let method = method_of(request)?;
        let cap = if method.waits {
            self.caps.waiting
        } else {
            self.caps.usual
        };
        Some(requested(request.headers()).map_or(cap, |wanted| wanted.min(cap)))
    }
}

/// Parses the header `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2). None if
/// it is missing or malformed.
fn requested(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

pin_project! {
    /// A call and its deadline, if it has one.
    #[derive(Debug)]
    pub struct Limited<F> {
        #[pin]
        future: F,
        #[pin]
        deadline: Option<Sleep>,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Limited<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(answer) = this.future.poll(context) {
            return Poll::Ready(answer);
        }
        match this.deadline.as_pin_mut() {
            Some(deadline) => deadline.poll(context).map(|()| Ok(exceeded())),
            None => Poll::Pending,
        }
    }
}

fn exceeded() -> Response {
    let error = Error::new(Reason::DeadlineExceeded, "the call's time is over");
    Status::from(error).into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_timeouts_of_the_protocol_only() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            requested(&headers)
        };
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for wrong in ["", "S", "1", "123456789S", "1s", "-1S", "1.5S", "+1S"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(requested(&HeaderMap::new()), None);
    }
}
