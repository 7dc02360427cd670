//! Decides how soon a server that has ended is started again: at once the first time, then with
//! growing pauses until it stays up.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use uuid::Uuid;

/// A server that was up for longer than this is started again at once.
const STAYED_UP: Duration = Duration::from_secs(60);

/// First pause, which doubles each time, and longest pause.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

/// The recent recoveries of each server.
#[derive(Debug, Default)]
pub(super) struct Paces(HashMap<Uuid, Pace>);

#[derive(Debug)]
struct Pace {
    /// Recoveries in a row, without a time up of more than [`STAYED_UP`] between them.
    number: u32,
    /// When the server was first seen up after the last recovery.
    up: Option<Instant>,
    /// When it was seen down again. The pause begins at that time.
    down: Option<Instant>,
}

/// What to do with a server that is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// Start it now.
    Over,
    /// Wait: a pause of this length begins.
    Begins(Duration),
    /// Wait: the pause has already begun.
    GoesOn,
}

impl Paces {
    /// Notes that a server is up.
    pub(super) fn up(&mut self, uid: Uuid, now: Instant) {
        if let Some(pace) = self.0.get_mut(&uid) {
            match pace.down.take() {
                // It came up by itself, or was down only during its start: the time up begins now.
                Some(_) => pace.up = Some(now),
                None => _ = pace.up.get_or_insert(now),
            }
        }
    }

    /// Notes that a server is down or did not come up, and decides whether to start it.
    pub(super) fn down(&mut self, uid: Uuid, now: Instant) -> Pause {
        let Some(pace) = self.0.get_mut(&uid) else {
            return Pause::Over;
        };
        let begins = pace.down.is_none();
        let down = *pace.down.get_or_insert(now);
        let was_up = pace.up.map(|up| down.saturating_duration_since(up));
        if was_up.is_some_and(|time| time > STAYED_UP) {
            self.0.remove(&uid);
            return Pause::Over;
        }
        let doublings = pace.number.saturating_sub(1).min(16);
        let pause = FIRST.saturating_mul(1 << doublings).min(LONGEST);
        match now.saturating_duration_since(down) < pause {
            false => Pause::Over,
            true if begins => Pause::Begins(pause),
            true => Pause::GoesOn,
        }
    }

    /// Notes that a recovery begins.
    pub(super) fn recovers(&mut self, uid: Uuid) {
        let pace = self.0.entry(uid).or_insert(Pace {
            number: 0,
            up: None,
            down: None,
        });
        pace.number = pace.number.saturating_add(1);
        (pace.up, pace.down) = (None, None);
    }

    /// Forgets a server that shall not run any more.
    pub(super) fn forget(&mut self, uid: Uuid) {
        self.0.remove(&uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The pauses between recoveries of a server that is up for `up_for` each time.
    fn pauses(up_for: Option<Duration>) -> Vec<u64> {
        let (mut paces, uid) = (Paces::default(), Uuid::from_u128(1));
        let mut now = Instant::now();
        assert_eq!(paces.down(uid, now), Pause::Over);
        let mut pauses = Vec::new();
        for _ in 0..11 {
            paces.recovers(uid);
            if let Some(time) = up_for {
                paces.up(uid, now);
                now += time;
                paces.up(uid, now);
            } else {
                // The duration of the attempts does not matter.
                now += 100 * SECOND;
            }
            match paces.down(uid, now) {
                Pause::Begins(pause) => {
                    pauses.push(pause.as_secs());
                    now += pause - SECOND;
                    assert_eq!(paces.down(uid, now), Pause::GoesOn);
                    now += SECOND;
                }
                pause => assert_eq!(pause, Pause::Over),
            }
            assert_eq!(paces.down(uid, now), Pause::Over);
        }
        pauses
    }

    #[test]
    fn pauses_grow_until_a_server_stays_up() {
        let growing = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300];
        assert_eq!(pauses(None), growing);
        assert_eq!(pauses(Some(SECOND)), growing);
        assert_eq!(pauses(Some(STAYED_UP)), growing);
        assert_eq!(pauses(Some(STAYED_UP + SECOND)), [0; 0]);
    }

    /// A look during the recovery finds the server down; the server ends days later.
    #[test]
    fn what_is_seen_during_a_recovery_is_forgotten_when_the_server_is_up() {
        let (mut paces, uid, now) = (Paces::default(), Uuid::nil(), Instant::now());
        paces.recovers(uid);
        assert_eq!(paces.down(uid, now), Pause::Begins(FIRST));
        paces.up(uid, now + SECOND);
        let ends = now + 3 * 86_400 * SECOND;
        assert_eq!(paces.down(uid, ends), Pause::Over);
        paces.recovers(uid);
        assert_eq!(paces.down(uid, ends), Pause::Begins(FIRST), "the first one");
        // The time down is not counted as time up.
        paces.up(uid, ends);
        assert_eq!(paces.down(uid, ends), Pause::Begins(FIRST));
        let later = ends + 2 * STAYED_UP;
        paces.up(uid, later);
        assert_eq!(paces.down(uid, later + SECOND), Pause::Begins(FIRST));
    }

    #[test]
    fn a_server_that_was_stopped_begins_anew() {
        let (mut paces, uid, now) = (Paces::default(), Uuid::nil(), Instant::now());
        paces.recovers(uid);
        assert_eq!(paces.down(uid, now), Pause::Begins(FIRST));
        paces.forget(uid);
        assert_eq!(paces.down(uid, now), Pause::Over);
    }
}
