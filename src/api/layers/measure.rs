//! Metrics and access log: every call is counted once, with its final code.
//!
//! A call whose future or body is dropped before its end counts as CANCELLED: the client has
//! gone away, or its connection was closed.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::Request;
use http_body::Body;
use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter, UpDownCounter},
};
use tonic::Code;
use tower::{Layer, Service};
use tracing::Span;

use crate::{
    api::{
        method::{Effect, Method},
        status::code_name,
    },
    telemetry::{flood, metrics::DURATION_BOUNDS, names, spans},
};

use super::{
    answer::{Answered, OnAnswer},
    body::{Polled, Watch, Watched},
    code_in, method_of,
};

/// Measures each call.
#[derive(Clone, Debug)]
pub struct MeasureLayer {
    instruments: Arc<Instruments>,
}

#[derive(Debug)]
struct Instruments {
    duration: Histogram<f64>,
    active: UpDownCounter<i64>,
    streams: UpDownCounter<i64>,
}

impl Instruments {
    /// Adds `change` to the open streams, if the method is a stream.
    fn count_stream(&self, method: Option<&Method>, change: i64) {
        if let Some(method) = method.filter(|method| method.streaming) {
            let service = method.name.split('/').next().unwrap_or_default();
            let service = KeyValue::new(names::RPC_SERVICE, service.to_owned());
            self.streams.add(change, &[service]);
        }
    }
}

impl MeasureLayer {
    /// Creates the instruments with this meter.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        let duration = meter
            .f64_histogram(names::RPC_SERVER_CALL_DURATION)
            .with_unit("s")
            .with_description("Duration of inbound calls.")
            .with_boundaries(DURATION_BOUNDS.to_vec())
            .build();
        let active = meter
            .i64_up_down_counter(names::RPC_ACTIVE)
            .with_unit("{call}")
            .with_description("Calls under way.")
            .build();
        let streams = meter
            .i64_up_down_counter(names::STREAMS_OPEN)
            .with_unit("{stream}")
            .with_description("Streams under way, by their service.")
            .build();
        Self {
            instruments: Arc::new(Instruments {
                duration,
                active,
                streams,
            }),
        }
    }
}

impl<S> Layer<S> for MeasureLayer {
    type Service = Measure<S>;

    fn layer(&self, inner: S) -> Measure<S> {
        Measure {
            inner,
            instruments: Arc::clone(&self.instruments),
        }
    }
}

/// A service whose calls are measured.
#[derive(Clone, Debug)]
pub struct Measure<S> {
    inner: S,
    instruments: Arc<Instruments>,
}

impl<S, B, R> Service<Request<B>> for Measure<S>
where
    S: Service<Request<B>, Response = http::Response<R>, Error = Infallible>,
    R: Body,
{
    type Response = http::Response<Watched<R, Guard>>;
    type Error = Infallible;
    type Future = Answered<S::Future, Guard>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let guard = Guard::start(&self.instruments, method_of(&request).cloned());
        Answered::new(self.inner.call(request), guard)
    }
}

/// A running call. If it is dropped before it has finished, it was cancelled.
#[derive(Debug)]
pub struct Guard {
    instruments: Arc<Instruments>,
    method: Option<Arc<Method>>,
    started: Instant,
    span: Span,
    finished: bool,
}

impl Guard {
    fn start(instruments: &Arc<Instruments>, method: Option<Arc<Method>>) -> Self {
        instruments.active.add(1, &[]);
        instruments.count_stream(method.as_deref(), 1);
        Self {
            instruments: Arc::clone(instruments),
            method,
            started: Instant::now(),
            span: Span::current(),
            finished: false,
        }
    }

    fn finish(&mut self, code: Code) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let name = code_name(code);
        self.instruments.active.add(-1, &[]);
        self.instruments.count_stream(self.method.as_deref(), -1);
        self.record(seconds, code, name);
        // Only exported spans need this; log lines have it in the event.
        self.span.record(names::RPC_RESPONSE_STATUS_CODE, name);
        if is_server_fault(code) {
            spans::fail(&self.span, name);
        }
        self.log(seconds, name);
    }

    fn record(&self, seconds: f64, code: Code, name: &'static str) {
        let method = self
            .method
            .as_ref()
            .map_or_else(|| names::OTHER.into(), |method| Arc::clone(&method.name));
        let attributes = [
            KeyValue::new(names::RPC_SYSTEM_NAME, names::GRPC),
            KeyValue::new(names::RPC_METHOD, method),
            KeyValue::new(names::RPC_RESPONSE_STATUS_CODE, name),
            KeyValue::new(names::ERROR_TYPE, name),
        ];
        let [common @ .., _error] = &attributes;
        let attributes = if is_server_fault(code) {
            &attributes[..]
        } else {
            common
        };
        self.instruments.duration.record(seconds, attributes);
    }

    /// Successful reads are logged at DEBUG, because there are many. If many calls fail, not
    /// every one gets a line.
    fn log(&self, seconds: f64, code: &'static str) {
        let quiet = code == "OK"
            && self
                .method
                .as_ref()
                .is_some_and(|method| method.effect == Effect::Read);
        let _entered = self.span.enter();
        if quiet {
            tracing::debug!(target: "access", code, seconds, "call ended");
        } else if code == "OK" || flood::admits("call ended", code) {
            tracing::info!(target: "access", code, seconds, "call ended");
        }
    }
}

/// Codes that count as errors of the server (OpenTelemetry semantic conventions).
const fn is_server_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

impl<R: Body> OnAnswer<Result<http::Response<R>, Infallible>> for Guard {
    type Response = http::Response<Watched<R, Self>>;

    fn answer(mut self, output: Result<http::Response<R>, Infallible>) -> Self::Response {
        let Ok(response) = output;
        if let Some(code) = code_in(response.headers()) {
            self.finish(code);
        } else if response.body().is_end_stream() {
            self.finish(Code::Unknown);
        }
        response.map(|body| Watched::new(body, self))
    }
}

impl<B: Body> Watch<B> for Guard {
    fn poll(&mut self, body: Pin<&mut B>, context: &mut Context<'_>) -> Polled<B> {
        let polled = body.poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.finish(code_in(trailers).unwrap_or(Code::Unknown));
                }
            }
            Poll::Ready(Some(Err(_)) | None) => self.finish(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }
}
