//! Trace context (W3C `traceparent`), and the span of the call.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request};
use http_body::Body;
use opentelemetry::{
    propagation::{Extractor, TextMapPropagator as _},
    trace::{TraceContextExt as _, TraceId},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{IdGenerator as _, RandomIdGenerator},
};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field, instrument::Instrumented};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    api::method::{Method, Methods},
    telemetry::otlp,
};

use super::{
    Call,
    answer::{Answered, OnAnswer},
    body::{Polled, Watch, Watched},
};

/// Opens the span of each call.
#[derive(Clone, Debug)]
pub struct TraceLayer {
    methods: Arc<Methods>,
}

impl TraceLayer {
    /// Knows the methods of this table.
    #[must_use]
    pub const fn new(methods: Arc<Methods>) -> Self {
        Self { methods }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace {
            inner,
            methods: Arc::clone(&self.methods),
        }
    }
}

/// A service with a span around each call.
#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: S,
    methods: Arc<Methods>,
}

impl<S, B, R> Service<Request<B>> for Trace<S>
where
    S: Service<Request<B>, Response = http::Response<R>, Error = Infallible>,
    R: Body,
{
    type Response = http::Response<Watched<R, Spanned>>;
    type Error = Infallible;
    type Future = Answered<Instrumented<S::Future>, Spanned>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let method = Arc::clone(self.methods.find(request.uri().path()));
        let (span, trace) = open(&method, request.headers());
        request.extensions_mut().insert(Call {
            method,
            trace,
            policy: None,
        });
        let future = span.in_scope(|| self.inner.call(request));
        Answered::new(future.instrument(span.clone()), Spanned(span))
    }
}

/// The span around a response's body.
#[derive(Debug)]
pub struct Spanned(Span);

impl<R> OnAnswer<Result<http::Response<R>, Infallible>> for Spanned {
    type Response = http::Response<Watched<R, Self>>;

    fn answer(self, output: Result<http::Response<R>, Infallible>) -> Self::Response {
        let Ok(response) = output;
        response.map(|body| Watched::new(body, self))
    }
}

impl<B: Body> Watch<B> for Spanned {
    fn poll(&mut self, body: Pin<&mut B>, context: &mut Context<'_>) -> Polled<B> {
        let _entered = self.0.enter();
        body.poll_frame(context)
    }
}

/// Opens the span. It has level ERROR, so that no log filter removes the trace id from a line.
fn open(method: &Method, headers: &HeaderMap) -> (Span, TraceId) {
    let remote = remote_context(headers);
    let remote_id = remote
        .as_ref()
        .map(|context| context.span().span_context().trace_id());
    if !otlp::traces_exported() {
        let trace = remote_id.unwrap_or_else(|| RandomIdGenerator::default().new_trace_id());
        let span = tracing::error_span!(
            "rpc",
            trace_id = %trace,
            rpc.method = &*method.name,
        );
        return (span, trace);
    }
    let span = tracing::error_span!(
        "rpc",
        otel.name = &*method.name,
        otel.kind = "server",
        otel.status_code = field::Empty,
        rpc.system.name = crate::telemetry::names::GRPC,
        rpc.method = &*method.name,
        rpc.response.status_code = field::Empty,
        "error.type" = field::Empty,
        trace_id = field::Empty,
    );
    if let Some(remote) = remote {
        let _ = span.set_parent(remote);
    }
    let trace = span.context().span().span_context().trace_id();
    span.record("trace_id", field::display(trace));
    (span, trace)
}

/// The caller's context; none if it is missing or invalid.
fn remote_context(headers: &HeaderMap) -> Option<opentelemetry::Context> {
    headers.get("traceparent")?;
    let context = TraceContextPropagator::new().extract(&Headers(headers));
    context.span().span_context().is_valid().then_some(context)
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_callers_trace_if_it_is_valid() {
        let mut headers = HeaderMap::new();
        assert!(remote_context(&headers).is_none());
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert("traceparent", good.parse().unwrap());
        let context = remote_context(&headers).unwrap();
        let trace = context.span().span_context().trace_id();
        assert_eq!(trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        headers.insert("traceparent", "00-zz-00f067aa0ba902b7-01".parse().unwrap());
        assert!(remote_context(&headers).is_none());
    }
}
