//! Checks the clock, which decides about certificates and about the times of resources.

use std::{env, fs};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use crate::config::{Finding, Surroundings};

pub(super) fn check(surroundings: &Surroundings) -> Finding {
    let made = env::current_exe().and_then(|path| fs::metadata(path)?.modified());
    judge(surroundings.now, made.ok().map(DateTime::<Utc>::from))
}

/// Compares the clock with the time of the program's file: an earlier clock must be wrong.
fn judge(now: DateTime<Utc>, program_made: Option<DateTime<Utc>>) -> Finding {
    let shown = now.to_rfc3339_opts(SecondsFormat::Secs, true);
    let behind = program_made.is_some_and(|made| now + TimeDelta::days(1) < made);
    if behind {
        let message = format!("it says {shown}, which is before this program was made");
        return Finding::warn("clock", message, "sudo timedatectl set-ntp true");
    }
    Finding::ok("clock", format!("it says {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::finding::Status;

    #[test]
    fn a_clock_that_is_far_behind_is_noticed() {
        let made = DateTime::from_timestamp(1_800_000_000, 0);
        let at = |seconds| judge(DateTime::from_timestamp(seconds, 0).unwrap(), made).status;
        assert_eq!(at(1_799_999_999), Status::Ok);
        assert_eq!(at(1_600_000_000), Status::Warn);
    }
}
