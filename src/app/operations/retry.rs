//! When a step that failed is tried again.

use std::time::Duration;

use crate::domain::{Error, Reason};

/// Longest delay between two tries.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// What to do after a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Try again here, soon: the metadata is away and nothing can be written.
    Wait,
    /// Try again after the delay.
    Retry(Duration),
    /// Give up.
    GiveUp,
}

/// What to do after the try number `attempt` (from 1) of `tries` failed with `error`.
pub(super) fn verdict(error: &Error, attempt: i32, tries: i32) -> Verdict {
    match error.reason() {
        Reason::MetadataUnavailable => Verdict::Wait,
        _ if may_pass(error) && attempt < tries => Verdict::Retry(delay(attempt)),
        _ => Verdict::GiveUp,
    }
}

/// Most tries of a step that panics: a defect seldom passes with time.
const TRIES_WITH_PANICS: i32 = 5;

/// What to do after the try number `attempt` (from 1) of `tries` has panicked.
pub(super) fn after_panic(attempt: i32, tries: i32) -> Verdict {
    match attempt < tries.min(TRIES_WITH_PANICS) {
        true => Verdict::Retry(delay(attempt)),
        false => Verdict::GiveUp,
    }
}

/// Whether a later try may succeed. Also with a full disk, which is not retryable for callers,
/// who should know at once: an operation can wait for room.
fn may_pass(error: &Error) -> bool {
    error.retryable() || error.reason() == Reason::DiskFull
}

/// Delay before the try after number `attempt`: doubled each time, from 100 ms.
pub(super) fn delay(attempt: i32) -> Duration {
    let doublings = u32::try_from(attempt.clamp(1, 12) - 1).unwrap_or_default();
    Duration::from_millis(100 << doublings).min(MAX_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_again_where_time_helps() {
        let down = Error::new(Reason::ServerUnavailable, "");
        assert_eq!(
            verdict(&down, 1, 15),
            Verdict::Retry(Duration::from_millis(100))
        );
        assert_eq!(verdict(&down, 15, 15), Verdict::GiveUp);
        let full = Error::new(Reason::DiskFull, "");
        assert_eq!(
            verdict(&full, 1, 15),
            Verdict::Retry(Duration::from_millis(100))
        );
        assert_eq!(verdict(&full, 15, 15), Verdict::GiveUp);
        assert_eq!(
            verdict(&Error::new(Reason::MetadataUnavailable, ""), 99, 15),
            Verdict::Wait
        );
        assert_eq!(
            verdict(&Error::new(Reason::RoleExists, ""), 1, 15),
            Verdict::GiveUp
        );
        assert_eq!(delay(100), MAX_DELAY);
        assert_eq!(after_panic(4, 15), Verdict::Retry(delay(4)));
        assert_eq!(after_panic(5, 15), Verdict::GiveUp);
        assert_eq!(after_panic(2, 2), Verdict::GiveUp);
    }
}
