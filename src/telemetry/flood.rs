//! Lines about what others can cause at will, such as refusals: some of each kind in a
//! second, and then how many were left out.

use std::{
    collections::HashMap,
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Most lines of one kind in a [`PERIOD`]: some 30 KB a second.
const LINES: u32 = 100;

const PERIOD: Duration = Duration::from_secs(1);

/// What a line is about: an event, and the code or the reason that it has. Both are
/// constants of the program, so that there is a bounded number of them.
type Kind = (&'static str, &'static str);

/// The kinds that were written of late.
static KINDS: LazyLock<Mutex<Kinds>> = LazyLock::new(Mutex::default);

/// Whether lines were left out and not reported yet.
static LEFT_OUT: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Default)]
struct Kinds(HashMap<Kind, Count>);

#[derive(Debug)]
struct Count {
    began: Instant,
    written: u32,
    left_out: u64,
}

impl Kinds {
    fn admit(&mut self, kind: Kind, now: Instant) -> bool {
        let count = self.0.entry(kind).or_insert(Count {
            began: now,
            written: 0,
            left_out: 0,
        });
        if now.duration_since(count.began) >= PERIOD {
            (count.began, count.written) = (now, 0);
        }
        if count.written < LINES {
            count.written += 1;
            return true;
        }
        count.left_out += 1;
        false
    }

    /// Takes what was left out in periods that are over.
    fn take_left_out(&mut self, now: Instant) -> Vec<(Kind, u64)> {
        let over = self
            .0
            .iter_mut()
            .filter(|(_, count)| count.left_out > 0 && now.duration_since(count.began) >= PERIOD);
        over.map(|(kind, count)| (*kind, std::mem::take(&mut count.left_out)))
            .collect()
    }

    fn has_left_out(&self) -> bool {
        self.0.values().any(|count| count.left_out > 0)
    }
}

/// Whether a line of this kind is to be written now.
#[must_use]
pub fn admits(event: &'static str, detail: &'static str) -> bool {
    let mut kinds = KINDS.lock().unwrap_or_else(PoisonError::into_inner);
    let admitted = kinds.admit((event, detail), Instant::now());
    if !admitted {
        LEFT_OUT.store(true, Relaxed);
    }
    admitted
}

/// Logs how many lines were left out.
pub(super) fn report() {
    if !LEFT_OUT.load(Relaxed) {
        return;
    }
    let mut kinds = KINDS.lock().unwrap_or_else(PoisonError::into_inner);
    let left_out = kinds.take_left_out(Instant::now());
    LEFT_OUT.store(kinds.has_left_out(), Relaxed);
    drop(kinds);
    for ((event, detail), lines) in left_out {
        tracing::warn!(event, detail, lines, "log lines were left out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_some_lines_in_a_second_and_the_rest_is_counted() {
        let mut kinds = Kinds::default();
        let begin = Instant::now();
        let one = ("call ended", "NOT_FOUND");
        let written = (0..1000).filter(|_| kinds.admit(one, begin)).count();
        assert_eq!(written, 100);
        assert!(kinds.admit(("call ended", "UNAVAILABLE"), begin));
        assert!(kinds.take_left_out(begin).is_empty() && kinds.has_left_out());
        let later = begin + PERIOD;
        assert_eq!(kinds.take_left_out(later), [(one, 900)]);
        assert!(!kinds.has_left_out());
        assert!(kinds.admit(one, later));
    }
}
