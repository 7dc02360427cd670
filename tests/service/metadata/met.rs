//! What callers and probers met, and whether it was right.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::timeout;
use tonic::{Code, Response, Status};

use crate::support::{
    health::{Health, TRUE_WITHIN},
    howdah::reason,
};

/// How much later than its deadline a call may end, on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// Longest call without a deadline of its client.
pub(super) const LONGEST: Duration = Duration::from_secs(20);

/// A moment between two probes and for a busy machine.
const MOMENT: Duration = Duration::from_secs(1);

/// What a fault may be answered with.
const ALLOWED: [&str; 5] = [
    "METADATA_UNAVAILABLE",
    "LOCK_TIMEOUT",
    "DEADLINE_EXCEEDED",
    "OVERLOADED",
    "RESOURCE_BUSY",
];

/// A time during which something was wrong with the metadata.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    pub(super) began: Instant,
    pub(super) ended: Instant,
}

impl Outage {
    pub(super) fn lasted(&self) -> Duration {
        self.ended - self.began
    }

    fn includes(&self, at: Instant) -> bool {
        self.began <= at && at <= self.ended
    }
}

/// A mutation that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) request_id: String,
    pub(super) operation: String,
}

/// Everything that was met.
#[derive(Debug, Default)]
pub(super) struct Met {
    /// Ends of calls, and whether they were answered.
    calls: Mutex<Vec<(Instant, bool)>>,
    health: Mutex<Vec<(Instant, Health)>>,
    accepted: Mutex<Vec<Accepted>>,
    wrong: Mutex<BTreeMap<String, u32>>,
    /// Whether a mutation never came to its end.
    lost: AtomicBool,
}

impl Met {
    /// Makes a call, and sees that it ends in time and that a refusal is a right one.
    pub(super) async fn call<T>(
        &self,
        what: &str,
        deadline: Option<Duration>,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        let bound = deadline.unwrap_or(LONGEST) + SLACK;
        let began = Instant::now();
        let Ok(answer) = timeout(bound, call).await else {
            self.wrong(format!("{what}: no answer within {bound:?}"));
            self.ended(false);
            return Err(Status::deadline_exceeded(
                "the test has waited for too long",
            ));
        };
        self.ended(answer.is_ok());
        if let Err(status) = &answer
            && !is_allowed(status)
            && !is_clients_own(status, deadline, began)
        {
            let (code, why) = (status.code(), reason(status));
            self.wrong(format!("{what}: {code:?} {why} {}", status.message()));
        }
        answer.map(Response::into_inner)
    }

    pub(super) fn wrong(&self, what: String) {
        *self.wrong.lock().unwrap().entry(what).or_default() += 1;
    }

    /// A mutation has not come to its end: the books are open.
    pub(super) fn lose(&self, what: String) {
        self.lost.store(true, Ordering::Relaxed);
        self.wrong(what);
    }

    pub(super) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn accept(&self, request_id: &str, operation: &str) {
        self.accepted.lock().unwrap().push(Accepted {
            request_id: request_id.to_owned(),
            operation: operation.to_owned(),
        });
    }

    pub(super) fn probed(&self, health: Health) {
        let now = Instant::now();
        self.health.lock().unwrap().push((now, health));
    }

    fn ended(&self, answered: bool) {
        self.calls.lock().unwrap().push((Instant::now(), answered));
    }

    /// Calls that ended in an outage: how many were answered and how many refused.
    pub(super) fn calls_in(&self, outage: &Outage) -> (usize, usize) {
        let calls = self.calls.lock().unwrap();
        let during = calls.iter().filter(|(at, _)| outage.includes(*at));
        during.fold((0, 0), |(yes, no), (_, answered)| match answered {
            true => (yes + 1, no),
            false => (yes, no + 1),
        })
    }

    /// How many calls were answered up to now.
    pub(super) fn answered(&self) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(_, answered)| *answered).count()
    }

    pub(super) fn accepted(&self) -> Vec<Accepted> {
        self.accepted.lock().unwrap().clone()
    }

    /// What was wrong, each with how often.
    pub(super) fn faults(&self) -> Vec<String> {
        let wrong = self.wrong.lock().unwrap();
        let told = wrong
            .iter()
            .map(|(what, times)| format!("{times} x {what}"));
        told.collect()
    }

    /// Sees that health told the truth, early enough. `whole`: no call could be answered
    /// from the begin to the end.
    pub(super) fn judge_health(&self, outage: &Outage, whole: bool) {
        let must = whole && outage.lasted() > TRUE_WITHIN + MOMENT;
        if must && !self.went_down(outage) {
            let limit = TRUE_WITHIN;
            self.wrong(format!(
                "health was not false within {limit:?} of the begin"
            ));
        }
        if !self.came_up(outage.ended) {
            let limit = TRUE_WITHIN;
            self.wrong(format!("health was not true within {limit:?} of the end"));
        }
        if let Some(lie) = self.lie() {
            let after = lie.saturating_duration_since(outage.began);
            self.wrong(format!(
                "health had said SERVING for {TRUE_WITHIN:?} while every call failed, \
                 {after:.1?} after the begin"
            ));
        }
    }

    fn went_down(&self, outage: &Outage) -> bool {
        let health = self.health.lock().unwrap();
        let early = outage.began + TRUE_WITHIN + MOMENT;
        let mut early = health
            .iter()
            .filter(|(at, _)| outage.began < *at && *at < early);
        early.any(|(_, health)| *health == Health::DOWN)
    }

    fn came_up(&self, since: Instant) -> bool {
        let health = self.health.lock().unwrap();
        let early = since + TRUE_WITHIN + MOMENT;
        let mut early = health.iter().filter(|(at, _)| since < *at && *at < early);
        early.any(|(_, health)| *health == Health::UP)
    }

    /// When health had said for too long that calls are served, and none was.
    fn lie(&self) -> Option<Instant> {
        let (health, calls) = (self.health.lock().unwrap(), self.calls.lock().unwrap());
        let is_lie = |now: Instant| {
            let Some(from) = now.checked_sub(TRUE_WITHIN) else {
                return false;
            };
            let within = |at: &Instant| from < *at && *at <= now;
            let old_enough = health.first().is_some_and(|(first, _)| *first <= from);
            let mut probes = health.iter().filter(|(at, _)| within(at));
            let mut calls = calls.iter().filter(|(at, _)| within(at));
            old_enough
                && probes.all(|(_, health)| health.serving || health.ready)
                && calls.all(|(_, answered)| !answered)
        };
        health.iter().map(|(at, _)| *at).find(|at| is_lie(*at))
    }
}

fn is_allowed(status: &Status) -> bool {
    ALLOWED.contains(&reason(status).as_str())
}

/// The client library ends a call at its deadline by itself.
fn is_clients_own(status: &Status, deadline: Option<Duration>, began: Instant) -> bool {
    let ended = matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded);
    ended && deadline.is_some_and(|deadline| began.elapsed() >= deadline)
}
