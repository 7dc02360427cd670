//! The meter and what reads it: Prometheus by scrape, OTLP by push.

use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};

use super::{Error, SERVICE_NAME, otlp};

/// Bounds of duration histograms in seconds, from a tenth of a millisecond.
pub const DURATION_BOUNDS: [f64; 16] = [
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    60.0,
];

/// Measurements of the process.
#[derive(Clone, Debug)]
pub struct Metrics {
    provider: SdkMeterProvider,
    registry: prometheus::Registry,
}

impl Metrics {
    /// A meter with its own Prometheus registry, pushed to `destination` too.
    ///
    /// # Errors
    /// When an exporter cannot be built.
    pub fn new(resource: Resource, destination: Option<&otlp::Destination>) -> Result<Self, Error> {
        let registry = prometheus::Registry::new();
        let scrape = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .build()?;
        let mut builder = SdkMeterProvider::builder()
            .with_reader(scrape)
            .with_resource(resource);
        if let Some(destination) = destination {
            builder = builder.with_periodic_exporter(otlp::metric_exporter(destination)?);
        }
        Ok(Self {
            provider: builder.build(),
            registry,
        })
    }

    /// The meter that instruments come from.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.provider.meter(SERVICE_NAME)
    }

    /// What a scrape reads.
    #[must_use]
    pub fn registry(&self) -> &prometheus::Registry {
        &self.registry
    }

    /// Pushes what is left. Blocks.
    pub(super) fn shutdown(&self) {
        let _ = self.provider.shutdown();
    }
}
