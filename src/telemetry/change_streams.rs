//! How far change streams are behind the end of their servers' logs.

use std::sync::{Mutex, PoisonError};

use opentelemetry::{KeyValue, metrics::Meter};

use super::names;
use crate::domain::change_stream::{ChangeStream, Progress};

/// Most streams that have series of their own in a process.
const MOST: usize = 500;

/// What is measured of a stream.
#[derive(Clone, Debug)]
pub struct Series {
    instance: String,
    stream: String,
    /// Bytes from each rung to the end of the log.
    behind: Vec<(&'static str, u64)>,
}

impl Series {
    /// What is measured of a stream that is so far.
    #[must_use]
    pub fn of(stream: &ChangeStream, progress: &Progress) -> Self {
        let rungs = [
            ("sent", progress.sent),
            ("received", progress.received),
            ("acknowledged", progress.acknowledged),
            ("confirmed", progress.confirmed),
            ("retained", progress.restart),
        ];
        // Without a subscriber nothing is sent.
        let known = rungs.into_iter().filter(|(_, position)| *position > 0);
        let behind = known.map(|(rung, at)| (rung, progress.wal_end.saturating_sub(at)));
        Self {
            instance: stream.name.instance.to_string(),
            stream: stream.name.stream.to_string(),
            behind: behind.collect(),
        }
    }
}

static PRESENT: Mutex<Vec<Series>> = Mutex::new(Vec::new());

/// Makes the instrument.
pub(super) fn install(meter: &Meter) {
    meter
        .u64_observable_gauge(names::CHANGE_STREAMS_LAG)
        .with_unit("By")
        .with_description("Log between the end and how far a change stream is.")
        .with_callback(|observer| {
            let present = PRESENT.lock().unwrap_or_else(PoisonError::into_inner);
            for series in present.iter() {
                for (rung, bytes) in &series.behind {
                    let labels = [
                        KeyValue::new(names::INSTANCE_NAME, series.instance.clone()),
                        KeyValue::new(names::CHANGE_STREAM, series.stream.clone()),
                        KeyValue::new(names::RUNG, *rung),
                    ];
                    observer.observe(*bytes, &labels);
                }
            }
        })
        .build();
}

/// Sets what is read from now on.
pub fn publish(mut series: Vec<Series>) {
    series.truncate(MOST);
    *PRESENT.lock().unwrap_or_else(PoisonError::into_inner) = series;
}
