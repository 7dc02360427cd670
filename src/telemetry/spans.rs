//! What spans say of failures, and links from the span of a call to the spans of what it
//! leads to later, maybe in another process.

use std::collections::HashMap;

use opentelemetry::{
    propagation::TextMapPropagator as _,
    trace::{SpanContext, TraceContextExt as _},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{names, otlp};

/// The header of W3C Trace Context that names a span.
const TRACEPARENT: &str = "traceparent";

/// Marks a span as one of something that failed, with its error as metrics name it. The
/// span has a field `error.type` and a field `otel.status_code`.
pub fn fail(span: &Span, error: &str) {
    span.record(names::ERROR_TYPE, error);
    span.record("otel.status_code", "ERROR");
}

/// The present span as W3C Trace Context writes it. None where spans are not exported.
#[must_use]
pub fn traceparent() -> Option<String> {
    if !otlp::traces_exported() {
        return None;
    }
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut headers);
    headers.remove(TRACEPARENT)
}

/// Links a span to the one that is written like this. Where either is none, nothing is
/// done.
pub fn link(span: &Span, traceparent: Option<&str>) {
    if let Some(of) = traceparent
        .and_then(parse)
        .filter(|_| otlp::traces_exported())
    {
        span.add_link(of);
    }
}

fn parse(traceparent: &str) -> Option<SpanContext> {
    let headers = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&headers);
    let of = context.span().span_context().clone();
    of.is_valid().then_some(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_names_a_span_and_nothing_else() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let of = parse(good).unwrap();
        assert_eq!(
            of.trace_id().to_string(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        assert_eq!(of.span_id().to_string(), "00f067aa0ba902b7");
        for bad in ["", "00-0-0-01", "00-zz-00f067aa0ba902b7-01"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
