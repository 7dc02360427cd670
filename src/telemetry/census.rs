//! How many resources and operations there are, as the metadata has it.
//!
//! They are counted while somebody reads the metrics, and at most every ten seconds: a
//! reading returns the last counts and asks for new ones.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Counter, Meter},
};
use tokio::sync::Notify;

use super::names;

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Instances by state.
    pub instances: Vec<Instances>,
    /// Change streams by state.
    pub change_streams: Vec<ChangeStreams>,
    /// Servers by role and goal.
    pub servers: Vec<Servers>,
    /// Operations under way by kind and state.
    pub operations: Vec<Operations>,
}

/// Instances in a state.
#[derive(Clone, Debug)]
pub struct Instances {
    /// Their state.
    pub state: String,
    /// How many there are.
    pub count: u64,
}

/// Change streams in a state.
#[derive(Clone, Debug)]
pub struct ChangeStreams {
    /// Their state.
    pub state: String,
    /// How many there are.
    pub count: u64,
}

/// Servers of a role with a goal.
#[derive(Clone, Debug)]
pub struct Servers {
    /// What they are to their instances.
    pub role: String,
    /// What is to become of them.
    pub goal: String,
    /// How many there are.
    pub count: u64,
}

/// Operations of a kind in a state.
#[derive(Clone, Debug)]
pub struct Operations {
    /// Their kind.
    pub kind: String,
    /// Their state.
    pub state: String,
    /// How many there are.
    pub count: u64,
    /// Seconds since the oldest was accepted.
    pub oldest: f64,
}

static PRESENT: Mutex<Option<Census>> = Mutex::new(None);
static READ: Notify = Notify::const_new();
static ENDED: OnceLock<Counter<u64>> = OnceLock::new();

/// Makes the instruments.
pub(super) fn install(meter: &Meter) {
    meter
        .u64_observable_gauge(names::INSTANCES)
        .with_unit("{instance}")
        .with_description("Instances, by their state.")
        .with_callback(|observer| {
            read(observer, |census, observer| {
                for it in &census.instances {
                    let state = KeyValue::new(names::INSTANCE_STATE, it.state.clone());
                    observer.observe(it.count, &[state]);
                }
            });
        })
        .build();
    meter
        .u64_observable_gauge(names::CHANGE_STREAMS)
        .with_unit("{stream}")
        .with_description("Change streams, by their state.")
        .with_callback(|observer| {
            read(observer, |census, observer| {
                for it in &census.change_streams {
                    let state = KeyValue::new(names::CHANGE_STREAM_STATE, it.state.clone());
                    observer.observe(it.count, &[state]);
                }
            });
        })
        .build();
    meter
        .u64_observable_gauge(names::SERVERS)
        .with_unit("{server}")
        .with_description("Servers, by their role and goal.")
        .with_callback(|observer| {
            read(observer, |census, observer| {
                for it in &census.servers {
                    let role = KeyValue::new(names::SERVER_ROLE, it.role.clone());
                    let goal = KeyValue::new(names::SERVER_GOAL, it.goal.clone());
                    observer.observe(it.count, &[role, goal]);
                }
            });
        })
        .build();
    meter
        .u64_observable_gauge(names::OPERATIONS)
        .with_unit("{operation}")
        .with_description("Operations under way, by their kind and state.")
        .with_callback(|observer| {
            read(observer, |census, observer| {
                for it in &census.operations {
                    observer.observe(it.count, &labels(&it.kind, &it.state));
                }
            });
        })
        .build();
    meter
        .f64_observable_gauge(names::OPERATIONS_AGE)
        .with_unit("s")
        .with_description("Age of the oldest operation under way, by its kind and state.")
        .with_callback(|observer| {
            read(observer, |census, observer| {
                for it in &census.operations {
                    observer.observe(it.oldest, &labels(&it.kind, &it.state));
                }
            });
        })
        .build();
    let ended = meter
        .u64_counter(names::OPERATIONS_ENDED)
        .with_unit("{operation}")
        .with_description("Operations that this process has brought to their end.")
        .build();
    let _ = ENDED.set(ended);
}

/// Sets what is read from now on; nothing while it is not known.
pub fn publish(census: Option<Census>) {
    *present() = census;
}

/// Ready when somebody has read the metrics since it was last.
pub async fn was_read() {
    READ.notified().await;
}

/// Counts an operation that a worker of this process has brought to its end.
pub fn count_ended(kind: &str, state: &'static str) {
    if let Some(ended) = ENDED.get() {
        ended.add(1, &labels(kind, state));
    }
}

fn labels(kind: &str, state: &str) -> [KeyValue; 2] {
    [
        KeyValue::new(names::OPERATION_KIND, kind.to_owned()),
        KeyValue::new(names::OPERATION_STATE, state.to_owned()),
    ]
}

fn read<T>(observer: &dyn AsyncInstrument<T>, with: impl FnOnce(&Census, &dyn AsyncInstrument<T>)) {
    READ.notify_one();
    if let Some(census) = &*present() {
        with(census, observer);
    }
}

fn present() -> MutexGuard<'static, Option<Census>> {
    PRESENT.lock().unwrap_or_else(PoisonError::into_inner)
}
