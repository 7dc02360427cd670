//! Decides whether and when a failed step is retried.

use std::time::Duration;

use crate::domain::{Error, Reason};

/// Longest delay between two attempts.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Retry soon without giving the claim back: the metadata is unavailable, so nothing can be
    /// written.
    Wait,
    /// Retry after the delay.
    Retry(Duration),
    /// Do not retry.
    GiveUp,
}

/// Decides after the attempt number `attempt` (from 1) of `tries` has failed with `error`.
pub(super) fn verdict(error: &Error, attempt: i32, tries: i32) -> Verdict {
    match error.reason() {
        Reason::MetadataUnavailable => Verdict::Wait,
        _ if may_pass(error) && attempt < tries => Verdict::Retry(delay(attempt)),
        _ => Verdict::GiveUp,
    }
}

/// Most attempts at a step that panics. A bug rarely disappears with time.
const TRIES_WITH_PANICS: i32 = 5;

/// Decides after the attempt number `attempt` (from 1) of `tries` has panicked.
pub(super) fn after_panic(attempt: i32, tries: i32) -> Verdict {
    match attempt < tries.min(TRIES_WITH_PANICS) {
        true => Verdict::Retry(delay(attempt)),
        false => Verdict::GiveUp,
    }
}

/// Whether a later attempt may succeed. A full disk counts too: callers get that error at once
/// as not retryable, but an operation can wait until there is space.
fn may_pass(error: &Error) -> bool {
    error.retryable() || error.reason() == Reason::DiskFull
}

/// Delay after the attempt number `attempt`: 100 ms, doubled each time, up to [`MAX_DELAY`].
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
