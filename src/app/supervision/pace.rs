//! How soon a server that has ended is started again: at once, but with growing pauses
//! when it does not stay up.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use uuid::Uuid;

/// A server that was up for longer is started again at once.
const STAYED_UP: Duration = Duration::from_secs(60);

/// First pause, doubled each time, and the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

/// The recoveries of each instance.
#[derive(Debug, Default)]
pub(super) struct Paces(HashMap<Uuid, Pace>);

#[derive(Debug)]
struct Pace {
    /// Recoveries in a row.
    number: u32,
    last: Instant,
}

impl Paces {
    /// How long a recovery has still to wait. `failed`: the last one did not get the
    /// server up.
    pub(super) fn pause(&mut self, uid: Uuid, failed: bool, now: Instant) -> Duration {
        let Some(pace) = self.0.get(&uid) else {
            return Duration::ZERO;
        };
        let since = now.saturating_duration_since(pace.last);
        if !failed && since > STAYED_UP {
            self.0.remove(&uid);
            return Duration::ZERO;
        }
        let doublings = pace.number.saturating_sub(1).min(16);
        let pause = FIRST.saturating_mul(1 << doublings).min(LONGEST);
        pause.saturating_sub(since)
    }

    /// A recovery begins.
    pub(super) fn recovers(&mut self, uid: Uuid, now: Instant) {
        // Those of instances that are gone, or well, are of no more use.
        let recent = LONGEST + STAYED_UP;
        self.0
            .retain(|_, pace| now.saturating_duration_since(pace.last) < recent);
        let pace = self.0.entry(uid).or_insert(Pace {
            number: 0,
            last: now,
        });
        pace.number = pace.number.saturating_add(1);
        pace.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_server_stays_up() {
        let (mut paces, uid) = (Paces::default(), Uuid::from_u128(1));
        let mut now = Instant::now();
        assert_eq!(paces.pause(uid, false, now), Duration::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            paces.recovers(uid, now);
            let pause = paces.pause(uid, false, now);
            pauses.push(pause.as_secs());
            now += pause;
            assert_eq!(paces.pause(uid, true, now), Duration::ZERO);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        paces.recovers(uid, now);
        now += STAYED_UP + Duration::from_secs(1);
        // Down since the last recovery, or up and ended again.
        assert!(paces.pause(uid, true, now) > Duration::ZERO);
        assert_eq!(paces.pause(uid, false, now), Duration::ZERO);
        paces.recovers(uid, now);
        assert_eq!(paces.pause(uid, false, now), FIRST);
        assert_eq!(paces.pause(Uuid::nil(), false, now), Duration::ZERO);
    }
}
