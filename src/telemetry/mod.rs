//! Logs, traces and metrics.
//!
//! [`init`] installs the log subscriber and the exporters once per process; the
//! [`Telemetry`] that it returns holds the Prometheus registry, hands out the meter
//! and flushes at the end.

pub mod census;
pub mod change_streams;
pub mod fields;
pub mod flood;
pub mod logs;
pub mod metrics;
pub mod names;
pub mod orphans;
pub mod otlp;
pub mod panics;
pub mod pool;
mod process;
mod queue;
pub mod spans;
pub mod sql;

use std::{env, time::Duration};

use opentelemetry::{Key, KeyValue, metrics::Meter};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};

pub use logs::Format;

/// Longest wait at the end for the reader of the log.
const LOG_FLUSH: Duration = Duration::from_secs(1);

/// Name under which Howdah appears in traces and metrics.
pub const SERVICE_NAME: &str = "howdah";

/// What can be set about telemetry.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Form of a log line.
    pub log_format: Format,
    /// What is logged, as directives of the `RUST_LOG` kind: `info,howdah=debug`.
    pub log_filter: String,
    /// Where traces and metrics are pushed to by OTLP over gRPC, as
    /// `http://host:4317`. None: what `OTEL_EXPORTER_OTLP_ENDPOINT` says, else nowhere.
    pub otlp_endpoint: Option<String>,
    /// Unique id of this process among the replicas, the attribute
    /// `service.instance.id`.
    pub instance_id: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            log_format: Format::Pretty,
            log_filter: "info".to_owned(),
            otlp_endpoint: None,
            instance_id: None,
        }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter cannot be read.
    #[error("the log filter cannot be read: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Telemetry was set up before in this process.
    #[error("a log subscriber is already installed")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
    /// The thread that writes the log cannot be started.
    #[error("the log's thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The OTLP exporter refuses its settings.
    #[error("the OTLP exporter cannot be built: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The Prometheus registry refuses the exporter.
    #[error("the Prometheus exporter cannot be built: {0}")]
    Prometheus(#[from] opentelemetry_sdk::error::OTelSdkError),
}

/// The running telemetry of the process.
#[derive(Debug)]
pub struct Telemetry {
    metrics: metrics::Metrics,
    traces: Option<SdkTracerProvider>,
    logs: Flushed,
}

/// The log, which is written to its end when this goes, also by a panic.
#[derive(Debug)]
struct Flushed(queue::Queue);

impl Drop for Flushed {
    fn drop(&mut self) {
        self.0.flush(LOG_FLUSH);
    }
}

/// Installs logs, and traces and metrics with their exporters.
///
/// Must run inside the Tokio runtime, whose tasks carry the exporters' connections,
/// before anything asks for a meter.
///
/// # Errors
/// When a setting cannot be used, or when called twice.
pub fn init(settings: &Settings) -> Result<Telemetry, Error> {
    let resource = resource(settings);
    let destination = otlp::Destination::of(settings.otlp_endpoint.as_deref());
    let metrics = metrics::Metrics::new(resource.clone(), destination.as_ref())?;
    let traces = destination
        .map(|destination| otlp::tracer_provider(&destination, resource))
        .transpose()?;
    let logs = Flushed(logs::install(settings, traces.as_ref())?);
    count_lost_lines(&metrics.meter(), &logs.0);
    sql::install(&metrics.meter());
    pool::install(&metrics.meter());
    census::install(&metrics.meter());
    change_streams::install(&metrics.meter());
    process::install(&metrics.meter());
    panics::install(&metrics.meter());
    orphans::install(&metrics.meter());
    Ok(Telemetry {
        metrics,
        traces,
        logs,
    })
}

impl Telemetry {
    /// The meter that Howdah's instruments come from.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.metrics.meter()
    }

    /// What a Prometheus scrape reads.
    #[must_use]
    pub fn registry(&self) -> &prometheus::Registry {
        self.metrics.registry()
    }

    /// Sends what the exporters still hold, for at most `bound`.
    pub async fn shutdown(self, bound: Duration) {
        let Self {
            metrics,
            traces,
            logs,
        } = self;
        let flush = tokio::task::spawn_blocking(move || {
            if let Some(traces) = traces {
                let _ = traces.shutdown_with_timeout(bound);
            }
            metrics.shutdown();
        });
        if tokio::time::timeout(bound, flush).await.is_err() {
            tracing::warn!("telemetry was not flushed in time");
        }
        drop(logs);
    }
}

fn count_lost_lines(meter: &Meter, queue: &queue::Queue) {
    let queue = queue.clone();
    meter
        .u64_observable_counter(names::LOG_LOST)
        .with_unit("{line}")
        .with_description("Log lines that were lost because standard error was not read.")
        .with_callback(move |observer| observer.observe(queue.lost(), &[]))
        .build();
}

fn resource(settings: &Settings) -> Resource {
    let mut builder = Resource::builder().with_attribute(KeyValue::new(
        names::SERVICE_VERSION,
        env!("CARGO_PKG_VERSION"),
    ));
    if env::var_os("OTEL_SERVICE_NAME").is_none() {
        builder = builder.with_service_name(SERVICE_NAME);
    }
    // What OTEL_RESOURCE_ATTRIBUTES names is stronger.
    let named = Resource::builder().build();
    let named = named.get(&Key::from_static_str(names::SERVICE_INSTANCE_ID));
    if let (Some(id), None) = (&settings.instance_id, named) {
        builder = builder.with_attribute(KeyValue::new(names::SERVICE_INSTANCE_ID, id.clone()));
    }
    builder.build()
}
