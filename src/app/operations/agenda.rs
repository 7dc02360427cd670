//! When the dispatcher of this process asks the metadata for work again.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::sync::Notify;

/// The time of the dispatcher's next query. Operations that wait for something outside are
/// looked at often, for example every 2 s. The worker that ends such a look adds the time of the
/// next one here; otherwise the dispatcher would have to ask the metadata after every look.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    /// The earliest time added since the last [`Agenda::clear`].
    next: Mutex<Option<Instant>>,
    /// Whether the last query may have left out operations that are due as soon as a worker of
    /// this process is free.
    full: AtomicBool,
    /// Wakes [`Agenda::reached`] when `next` has moved to an earlier time.
    changed: Notify,
}

impl Agenda {
    /// Makes the dispatcher ask the metadata now.
    pub(crate) fn look_now(&self) {
        self.add(Instant::now());
    }

    /// Makes the dispatcher ask at `time` at the latest; now if operations may have been left
    /// out.
    pub(super) fn add(&self, time: Instant) {
        let time = match self.full.load(Ordering::SeqCst) {
            true => Instant::now(),
            false => time,
        };
        let mut next = self.next();
        if next.is_none_or(|next| time < next) {
            *next = Some(time);
            self.changed.notify_one();
        }
    }

    /// Forgets the added times before a query of the metadata, which knows them too. A time that
    /// is added until [`Agenda::set_full`] counts as now, because the query may have run before
    /// the change that the time belongs to.
    pub(super) fn clear(&self) {
        self.full.store(true, Ordering::SeqCst);
        *self.next() = None;
    }

    /// Stores whether the query has left out operations.
    pub(super) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// Returns at `time`, or at the earliest added time if that comes first.
    pub(super) async fn reached(&self, time: Instant) {
        loop {
            let next = self.next().map_or(time, |next| next.min(time));
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => return,
                () = self.changed.notified() => {}
            }
        }
    }

    fn next(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    async fn is_reached(agenda: &Agenda) -> bool {
        let reached = agenda.reached(Instant::now() + HOUR);
        tokio::time::timeout(Duration::from_millis(50), reached)
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn a_wait_is_looked_at_when_it_is_due() {
        let agenda = Agenda::default();
        agenda.add(Instant::now() + HOUR);
        assert!(!is_reached(&agenda).await);
        agenda.add(Instant::now() + Duration::from_millis(5));
        agenda.add(Instant::now() + HOUR);
        assert!(is_reached(&agenda).await);
    }

    #[tokio::test]
    async fn what_ends_while_the_metadata_is_asked_is_looked_at_at_once() {
        let agenda = Agenda::default();
        agenda.look_now();
        agenda.clear();
        assert!(!is_reached(&agenda).await);
        agenda.add(Instant::now() + HOUR);
        agenda.set_full(false);
        assert!(is_reached(&agenda).await);
    }

    #[tokio::test]
    async fn a_worker_that_is_free_again_is_missed_only_where_something_was_left_out() {
        for full in [false, true] {
            let agenda = Agenda::default();
            agenda.clear();
            agenda.set_full(full);
            agenda.add(Instant::now() + HOUR);
            assert_eq!(is_reached(&agenda).await, full);
        }
    }
}
