//! Measures calls to PostgreSQL.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter},
};

use super::{metrics::DURATION_BOUNDS, names};

static DURATION: OnceLock<Histogram<f64>> = OnceLock::new();

/// What a failed call counts as, in the attribute `error.type`.
pub trait Failure {
    /// A word out of a small set: an SQLSTATE, a kind, never a message.
    fn error_type(&self) -> String;
}

impl Failure for sqlx::Error {
    fn error_type(&self) -> String {
        match self {
            Self::Database(error) => error
                .code()
                .map_or_else(|| "database".to_owned(), |code| code.into_owned()),
            Self::RowNotFound => "row_not_found".to_owned(),
            Self::PoolTimedOut => "pool_timed_out".to_owned(),
            Self::PoolClosed => "pool_closed".to_owned(),
            Self::Io(_) => "io".to_owned(),
            Self::Tls(_) => "tls".to_owned(),
            _ => names::OTHER.to_owned(),
        }
    }
}

impl Failure for tokio_postgres::Error {
    fn error_type(&self) -> String {
        self.code()
            .map_or_else(|| "connection".to_owned(), |state| state.code().to_owned())
    }
}

/// Makes the instrument. Before this, [`measure`] only passes the result on.
pub(super) fn install(meter: &Meter) {
    let histogram = meter
        .f64_histogram(names::DB_CLIENT_OPERATION_DURATION)
        .with_unit("s")
        .with_description("Duration of database client operations.")
        .with_boundaries(DURATION_BOUNDS.to_vec())
        .build();
    let _ = DURATION.set(histogram);
}

/// Runs a database call and records how long it took under the name of the query.
/// A call that is dropped counts with `error.type` `cancelled`.
///
/// # Errors
/// Those of the call.
pub async fn measure<T, E: Failure>(
    operation: &'static str,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let mut measurement = Measurement {
        operation,
        started: Instant::now(),
        done: false,
    };
    let result = call.await;
    measurement.done = true;
    let error = result.as_ref().err().map(Failure::error_type);
    record(operation, measurement.started.elapsed(), error);
    result
}

struct Measurement {
    operation: &'static str,
    started: Instant,
    done: bool,
}

impl Drop for Measurement {
    fn drop(&mut self) {
        if !self.done {
            record(
                self.operation,
                self.started.elapsed(),
                Some("cancelled".to_owned()),
            );
        }
    }
}

fn record(operation: &'static str, elapsed: Duration, error: Option<String>) {
    let Some(histogram) = DURATION.get() else {
        return;
    };
    let system = KeyValue::new(names::DB_SYSTEM_NAME, names::POSTGRESQL);
    let operation = KeyValue::new(names::DB_OPERATION_NAME, operation);
    let seconds = elapsed.as_secs_f64();
    match error {
        None => histogram.record(seconds, &[system, operation]),
        Some(error) => histogram.record(
            seconds,
            &[system, operation, KeyValue::new(names::ERROR_TYPE, error)],
        ),
    }
}
