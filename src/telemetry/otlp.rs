//! Export of traces and metrics by OTLP over gRPC.

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
};

use http::{Uri, uri::Scheme};
use opentelemetry_otlp::{
    MetricExporter, SpanExporter, WithExportConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};

use tonic::transport::ClientTlsConfig;

use super::Error;

const ENDPOINT_VARIABLES: [&str; 3] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
];

static TRACING: AtomicBool = AtomicBool::new(false);

/// Whether spans are exported, so that a span's trace id is the exporter's.
#[must_use]
pub fn traces_exported() -> bool {
    TRACING.load(Ordering::Relaxed)
}

/// Where to export to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An endpoint from Howdah's own settings.
    Endpoint(String),
    /// What the standard `OTEL_EXPORTER_OTLP_*` variables say.
    Environment,
}

impl Destination {
    /// The destination that the setting or else the environment names, if any.
    #[must_use]
    pub fn of(endpoint: Option<&str>) -> Option<Self> {
        if let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.is_empty()) {
            return Some(Self::Endpoint(endpoint.to_owned()));
        }
        ENDPOINT_VARIABLES
            .iter()
            .any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
            .then_some(Self::Environment)
    }
}

/// TLS by the machine's authorities, where the endpoint asks for it. Else nothing is
/// read: a machine without authorities still exports in plain text.
fn tls(destination: &Destination) -> Option<ClientTlsConfig> {
    let https = |text: &str| {
        text.parse::<Uri>()
            .is_ok_and(|uri| uri.scheme() == Some(&Scheme::HTTPS))
    };
    let encrypted = match destination {
        Destination::Endpoint(endpoint) => https(endpoint),
        Destination::Environment => ENDPOINT_VARIABLES
            .iter()
            .any(|name| env::var(name).is_ok_and(|value| https(&value))),
    };
    encrypted.then(|| ClientTlsConfig::new().with_native_roots())
}

pub(super) fn tracer_provider(
    destination: &Destination,
    resource: Resource,
) -> Result<SdkTracerProvider, Error> {
    let mut builder = SpanExporter::builder().with_tonic();
    if let Some(tls) = tls(destination) {
        builder = builder.with_tls_config(tls);
    }
    let exporter = match destination {
        Destination::Endpoint(endpoint) => builder.with_endpoint(endpoint).build()?,
        Destination::Environment => builder.build()?,
    };
    TRACING.store(true, Ordering::Relaxed);
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

pub(super) fn metric_exporter(destination: &Destination) -> Result<MetricExporter, Error> {
    let mut builder = MetricExporter::builder().with_tonic();
    if let Some(tls) = tls(destination) {
        builder = builder.with_tls_config(tls);
    }
    Ok(match destination {
        Destination::Endpoint(endpoint) => builder.with_endpoint(endpoint).build()?,
        Destination::Environment => builder.build()?,
    })
}
