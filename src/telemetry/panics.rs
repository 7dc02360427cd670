//! Panics: each is logged once, with its place, and counted, whatever catches it.

use std::{
    panic::{PanicHookInfo, set_hook},
    sync::OnceLock,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};

use super::names;

struct Instruments {
    panics: Counter<u64>,
    restarts: Counter<u64>,
}

static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

/// Makes the instruments.
pub(super) fn install(meter: &Meter) {
    let panics = meter
        .u64_counter(names::PANICS)
        .with_unit("{panic}")
        .with_description("Panics, by their place in the sources.")
        .build();
    let restarts = meter
        .u64_counter(names::TASK_RESTARTS)
        .with_unit("{restart}")
        .with_description("Background tasks that ended and were started again.")
        .build();
    let _ = INSTRUMENTS.set(Instruments { panics, restarts });
}

/// Logs and counts panics from now on, in the place of the hook that prints them.
pub fn log_panics() {
    set_hook(Box::new(note));
}

/// Counts that a background task has ended and is started again.
pub fn count_restart(task: &'static str) {
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments
            .restarts
            .add(1, &[KeyValue::new(names::TASK, task)]);
    }
}

fn note(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(
        || "unknown".to_owned(),
        |place| format!("{}:{}", short(place.file()), place.line()),
    );
    // A message with values in it may hold a secret: only a constant one is logged.
    let text = panic.payload().downcast_ref::<&'static str>().copied();
    tracing::error!(place, text, "panic");
    if let Some(instruments) = INSTRUMENTS.get() {
        instruments
            .panics
            .add(1, &[KeyValue::new(names::PLACE, place)]);
    }
}

/// A source file without the directory that the crates were built in.
fn short(file: &str) -> &str {
    let crates = file.split_once("/registry/src/");
    let inside = crates.and_then(|(_, below)| below.split_once('/'));
    inside.map_or(file, |(_, file)| file)
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn places_name_the_crate_alone() {
        assert_eq!(short("src/app/mod.rs"), "src/app/mod.rs");
        let dependency = "/home/u/.cargo/registry/src/index.crates.io-1/fail-0.5.1/src/lib.rs";
        assert_eq!(short(dependency), "fail-0.5.1/src/lib.rs");
    }
}
