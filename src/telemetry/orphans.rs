//! How much there is that no record knows.

use std::sync::OnceLock;

use opentelemetry::{
    KeyValue,
    metrics::{Gauge, Meter},
};

use super::names;

static INSTRUMENT: OnceLock<Gauge<u64>> = OnceLock::new();

/// Makes the instrument.
pub(super) fn install(meter: &Meter) {
    let orphans = meter
        .u64_gauge(names::ORPHANS)
        .with_unit("{object}")
        .with_description("Servers of this host and objects on them that no record knows.")
        .build();
    let _ = INSTRUMENT.set(orphans);
}

/// Records how many there are of a kind.
pub fn record(kind: &'static str, count: usize) {
    if let Some(instrument) = INSTRUMENT.get() {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        instrument.record(count, &[KeyValue::new(names::KIND, kind)]);
    }
}
