//! The connections to the metadata.

use std::{sync::OnceLock, time::Duration};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};

use super::{metrics::DURATION_BOUNDS, names};

/// The state of the pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// Connections in use, or being made or cleaned.
    pub used: u64,
    /// Idle connections.
    pub idle: u64,
    /// Most connections at once.
    pub max: u64,
    /// Callers that wait for a connection.
    pub waiting: u64,
}

struct Instruments {
    wait: Histogram<f64>,
    timeouts: Counter<u64>,
}

static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

/// Makes the instruments for waits.
pub(super) fn install(meter: &Meter) {
    let wait = meter
        .f64_histogram(names::DB_CLIENT_CONNECTION_WAIT_TIME)
        .with_unit("s")
        .with_description("Time that a caller waits for a connection to the metadata.")
        .with_boundaries(DURATION_BOUNDS.to_vec())
        .build();
    let timeouts = meter
        .u64_counter(names::DB_CLIENT_CONNECTION_TIMEOUTS)
        .with_unit("{timeout}")
        .with_description("Callers that got no connection to the metadata in time.")
        .build();
    let _ = INSTRUMENTS.set(Instruments { wait, timeouts });
}

/// Has the pool looked at when its metrics are read.
pub fn observe(meter: &Meter, look: impl Fn() -> Standing + Clone + Send + Sync + 'static) {
    let looked = look.clone();
    meter
        .u64_observable_gauge(names::DB_CLIENT_CONNECTION_COUNT)
        .with_unit("{connection}")
        .with_description("Connections to the metadata.")
        .with_callback(move |observer| {
            let now = looked();
            let used = KeyValue::new(names::DB_CLIENT_CONNECTION_STATE, "used");
            let idle = KeyValue::new(names::DB_CLIENT_CONNECTION_STATE, "idle");
            observer.observe(now.used, &[used]);
            observer.observe(now.idle, &[idle]);
        })
        .build();
    let looked = look.clone();
    meter
        .u64_observable_gauge(names::DB_CLIENT_CONNECTION_MAX)
        .with_unit("{connection}")
        .with_description("Most connections to the metadata at once.")
        .with_callback(move |observer| observer.observe(looked().max, &[]))
        .build();
    meter
        .u64_observable_gauge(names::DB_CLIENT_CONNECTION_PENDING_REQUESTS)
        .with_unit("{request}")
        .with_description("Callers that wait for a connection to the metadata.")
        .with_callback(move |observer| observer.observe(look().waiting, &[]))
        .build();
}

/// Records how long a caller has waited for a connection, and whether in vain.
pub fn record_wait(waited: Duration, timed_out: bool) {
    let Some(instruments) = INSTRUMENTS.get() else {
        return;
    };
    instruments.wait.record(waited.as_secs_f64(), &[]);
    if timed_out {
        instruments.timeouts.add(1, &[]);
    }
}
