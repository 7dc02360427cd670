//! Decides whether the metadata database's clock can be trusted for decisions that cannot be
//! undone. A clock that is wrong for a moment must not purge data or give up a host.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{domain::Result, failpoint, store::Store};

/// Most by which the clock's progress may differ from the time that has passed in this process.
/// The clock may be slewed, and a query takes time.
const TOLERANCE: TimeDelta = TimeDelta::seconds(15);

/// How long the clock is not trusted after a step, and after the start of the process.
const SETTLING: Duration = Duration::from_secs(300);

/// The metadata database's clock. Cheap to clone.
#[derive(Clone)]
pub(super) struct MetadataClock {
    store: Store,
    steadiness: Arc<Steadiness>,
}

/// The last reading of the clock.
#[derive(Debug, Default)]
struct Steadiness(Mutex<Option<Read>>);

#[derive(Clone, Copy, Debug)]
struct Read {
    database: DateTime<Utc>,
    here: Instant,
    /// Time of the last step that was seen; at first the time of the first reading.
    stepped: Instant,
}

impl Steadiness {
    /// Compares a reading with the last one. Returns whether the clock can be trusted: it has
    /// not stepped for `settling`.
    fn note(&self, database: DateTime<Utc>, here: Instant, settling: Duration) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stepped = match *last {
            // There is nothing to compare with: the clock may have been wrong before the start.
            None => here,
            Some(last) if last.has_stepped(database, here) => {
                tracing::warn!(
                    seconds = settling.as_secs(),
                    "the metadata database's clock has stepped: nothing is purged for a while"
                );
                here
            }
            Some(last) => last.stepped,
        };
        *last = Some(Read {
            database,
            here,
            stepped,
        });
        here.duration_since(stepped) >= settling
    }
}

impl Read {
    fn has_stepped(self, database: DateTime<Utc>, here: Instant) -> bool {
        let passed = TimeDelta::from_std(here.duration_since(self.here));
        let passed = passed.unwrap_or(TimeDelta::MAX);
        let difference = database.signed_duration_since(self.database) - passed;
        difference.abs() > TOLERANCE
    }
}

impl MetadataClock {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            steadiness: Arc::default(),
        }
    }

    /// Whether the clock may decide now what cannot be undone.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub(super) async fn is_steady(&self) -> Result<bool> {
        let begun = Instant::now();
        let database = self.store.now().await?;
        // The database has read its clock between the question and the answer.
        let here = begun + begun.elapsed() / 2;
        let settling = failpoint::pause("clock.settling", SETTLING);
        Ok(self.steadiness.note(database, here, settling))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_has_stepped_is_not_trusted_for_a_while() {
        let steadiness = Steadiness::default();
        let (start, zero) = (Instant::now(), DateTime::UNIX_EPOCH);
        let note = |here: u64, database: i64| {
            let database = zero + TimeDelta::seconds(database);
            steadiness.note(database, start + Duration::from_secs(here), SETTLING)
        };
        // The clock may have been wrong before the start.
        assert!(!note(0, 1000));
        assert!(!note(60, 1065));
        assert!(note(300, 1305));
        // Ten days ahead for 14 s.
        assert!(!note(310, 864_000 + 1315));
        assert!(!note(324, 1329));
        assert!(!note(620, 1625));
        assert!(note(630, 1635));
        // An hour back.
        assert!(!note(640, 1645 - 3600));
        assert!(note(1000, 2005 - 3600));
    }
}
