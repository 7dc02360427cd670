//! Limits what callers use: all of them together, and each one.
//!
//! A call takes a permit of its [`Class`] when its request has arrived completely. It gives the
//! permit back when its response begins; a stream does so when it ends. An incomplete request
//! holds no permit, only bytes ([`unfinished`]). Each permit is counted twice, for the process
//! and for the caller, so that one caller cannot take all of them.
//!
//! The caller is known from the connection ([`Caller`]), so a call costs a few atomic additions
//! and no lock.

mod account;
mod caller;
pub(super) mod unfinished;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};

use crate::{
    domain::{Error, Reason, Result},
    telemetry::names,
};

use self::unfinished::UnfinishedBytes;
use super::method::Method;

pub(super) use account::{Accounts, Key};
pub(super) use caller::Caller;

/// Classes of calls. Each has its own limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A unary call, until its response begins.
    Call,
    /// A call that waits by design, until its response begins.
    Wait,
    /// A stream, until its end.
    Stream,
    /// A stream of health or reflection, until its end.
    Probe,
}

/// Number of classes.
const CLASSES: usize = 4;

impl Class {
    /// The class of a method's calls. None for methods that probes call: they need no permit,
    /// because a server under load must not look dead.
    pub(super) fn of(method: &Method) -> Option<Self> {
        match (method.is_public(), method.streaming) {
            (true, false) => None,
            (true, true) => Some(Self::Probe),
            (false, true) => Some(Self::Stream),
            (false, false) if method.waits => Some(Self::Wait),
            (false, false) => Some(Self::Call),
        }
    }

    /// Name in metrics and errors.
    const fn name(self) -> &'static str {
        match self {
            Self::Call => "calls",
            Self::Wait => "waits",
            Self::Stream => "streams",
            Self::Probe => "probes",
        }
    }

    /// When to retry after a refusal. Calls are short, the other classes last longer.
    const fn retry_after(self) -> Duration {
        Duration::from_millis(match self {
            Self::Call => 500,
            Self::Wait | Self::Stream | Self::Probe => 5000,
        })
    }

    /// The counter of this class.
    fn count(self, counts: &[AtomicUsize; CLASSES]) -> &AtomicUsize {
        let [calls, waits, streams, probes] = counts;
        match self {
            Self::Call => calls,
            Self::Wait => waits,
            Self::Stream => streams,
            Self::Probe => probes,
        }
    }
}

/// Number of permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// For all callers together.
    pub all: usize,
    /// For one caller.
    pub each: usize,
}

impl Limit {
    /// `all` permits, half of them for one caller.
    #[must_use]
    pub const fn of(all: usize) -> Self {
        Self {
            all,
            each: all.div_ceil(2),
        }
    }
}

/// Limits of each class.
#[derive(Clone, Copy, Debug)]
pub struct Permits {
    /// Unary calls under way. Each needs memory. Above some number they would only queue for
    /// connections to the database.
    pub calls: Limit,
    /// Calls that wait for an operation. Each needs memory, and takes part in a shared read
    /// every 2 s.
    pub waits: Limit,
    /// Open streams. A stream of changes needs three connections to a server.
    pub streams: Limit,
    /// Open streams of health and of reflection.
    pub probes: Limit,
    /// Bytes of incomplete requests, in total. One caller may have half of that, one connection
    /// a quarter.
    pub unfinished_bytes: usize,
    /// Bytes of responses that wait for their clients to read them, in total. One caller may
    /// have half of that, one connection a quarter.
    pub unread_bytes: usize,
}

impl Default for Permits {
    fn default() -> Self {
        Self {
            calls: Limit::of(1024),
            waits: Limit::of(4096),
            streams: Limit::of(256),
            probes: Limit::of(1024),
            unfinished_bytes: 64 * 1024 * 1024,
            unread_bytes: 256 * 1024 * 1024,
        }
    }
}

impl Permits {
    const fn of(&self, class: Class) -> Limit {
        match class {
            Class::Call => self.calls,
            Class::Wait => self.waits,
            Class::Stream => self.streams,
            Class::Probe => self.probes,
        }
    }
}

/// The limit that was reached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scope {
    /// The limit of the process.
    Process,
    /// The limit of one caller.
    Caller,
    /// The limit of one connection.
    Connection,
    /// The limit of one address.
    Address,
}

/// Counts refusals by limit and scope. Never by caller, because there may be many callers.
#[derive(Clone, Debug)]
pub(super) struct Refusals(Counter<u64>);

impl Refusals {
    pub(super) fn new(meter: &Meter) -> Self {
        let counter = meter
            .u64_counter(names::REFUSALS)
            .with_unit("{refusal}")
            .with_description("Calls and connections that were refused because of a bound.")
            .build();
        Self(counter)
    }

    pub(super) fn count(&self, limit: &'static str, scope: Scope) {
        let scope = match scope {
            Scope::Process => "process",
            Scope::Caller => "caller",
            Scope::Connection => "connection",
            Scope::Address => "address",
        };
        let attributes = [
            KeyValue::new(names::LIMIT, limit),
            KeyValue::new(names::SCOPE, scope),
        ];
        self.0.add(1, &attributes);
    }
}

/// The permits of this process.
#[derive(Debug)]
pub(super) struct Budgets {
    limits: Permits,
    used: [AtomicUsize; CLASSES],
    unfinished: UnfinishedBytes,
    refusals: Refusals,
}

impl Budgets {
    pub(super) fn new(limits: Permits, meter: &Meter) -> Self {
        Self {
            limits,
            used: Default::default(),
            unfinished: UnfinishedBytes::default(),
            refusals: Refusals::new(meter),
        }
    }

    /// Takes a permit for a call of this class.
    ///
    /// # Errors
    /// BUDGET_EXHAUSTED when the caller has its share; OVERLOADED or STREAMS_EXHAUSTED when the
    /// process has no permit left.
    pub(super) fn admit(
        self: &Arc<Self>,
        class: Class,
        caller: Option<&Arc<Caller>>,
    ) -> Result<Permit> {
        let limit = self.limits.of(class);
        if let Some(caller) = caller
            && !caller.account().take(class, limit.each)
        {
            self.refusals.count(class.name(), Scope::Caller);
            return Err(
                exhausted(caller, class.name(), limit.each).with_retry_after(class.retry_after())
            );
        }
        // From here on, dropping the permit gives back what was taken. The caller's part is taken
        // first.
        let mut permit = Permit {
            budgets: Arc::clone(self),
            caller: caller.cloned(),
            class,
            whole: false,
        };
        if !take(class.count(&self.used), 1, limit.all) {
            self.refusals.count(class.name(), Scope::Process);
            return Err(full(class).with_retry_after(class.retry_after()));
        }
        permit.whole = true;
        Ok(permit)
    }
}

/// The error of a caller that uses its whole share.
fn exhausted(caller: &Caller, limit: &'static str, most: usize) -> Error {
    let message = format!("this caller uses all that one caller may: {most} {limit}");
    Error::new(Reason::BudgetExhausted, message)
        .with_resource(caller.account().to_string())
        .with_metadata("limit", limit)
        .with_metadata("most", most.to_string())
}

fn full(class: Class) -> Error {
    match class {
        Class::Call => Error::new(Reason::Overloaded, "the server has too much to do"),
        Class::Wait => Error::new(Reason::Overloaded, "too many calls wait for operations"),
        Class::Stream => Error::new(Reason::StreamsExhausted, "too many streams are open"),
        Class::Probe => Error::new(
            Reason::StreamsExhausted,
            "too many streams of health and reflection are open",
        ),
    }
}

/// Adds to a counter, unless that exceeds `most`.
fn take(counter: &AtomicUsize, amount: usize, most: usize) -> bool {
    let grown = |used: usize| used.checked_add(amount).filter(|used| *used <= most);
    counter.fetch_update(Relaxed, Relaxed, grown).is_ok()
}

/// A permit of a call. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit {
    budgets: Arc<Budgets>,
    caller: Option<Arc<Caller>>,
    class: Class,
    /// Whether the process's part was taken too.
    whole: bool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(caller) = &self.caller {
            caller.account().give_back(self.class);
        }
        if self.whole {
            let used = self.class.count(&self.budgets.used);
            used.fetch_sub(1, Relaxed);
        }
    }
}
