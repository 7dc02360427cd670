//! Acknowledgements: what subscribers have stored is on record before a call answers, and before
//! a server learns of it.
//!
//! One statement is in flight in a process, with the highest position of each stream that has
//! asked meanwhile: a commit takes as long for one as for many.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot, watch};
use uuid::Uuid;

use super::super::{shutting_down, tasks::Tasks};
use crate::{
    domain::{Error, Reason, Result, change_stream::Position},
    store::Store,
};

/// Those that wait for the position of a stream to be on record.
#[derive(Debug, Default)]
struct Waiting {
    highest: Position,
    callers: Vec<oneshot::Sender<Result<Position>>>,
}

/// What is known of a stream in this process.
#[derive(Debug)]
struct Known {
    /// What is on record.
    acknowledged: watch::Sender<Position>,
    /// The end of the server's log, as it was seen last.
    wal_end: u64,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            acknowledged: watch::Sender::new(Position::default()),
            wal_end: 0,
        }
    }
}

/// Records acknowledgements, and tells readers of slots. Cheap to clone.
#[derive(Clone)]
pub struct Acknowledgements {
    store: Store,
    tasks: Tasks,
    waiting: Arc<Mutex<HashMap<Uuid, Waiting>>>,
    asked: Arc<Notify>,
    known: Arc<Mutex<HashMap<Uuid, Known>>>,
}

impl Acknowledgements {
    pub(in crate::app) fn new(store: Store, tasks: Tasks) -> Self {
        Self {
            store,
            tasks,
            waiting: Arc::default(),
            asked: Arc::default(),
            known: Arc::default(),
        }
    }

    /// Follows what is on record for a stream, for whoever reads from its slot: a position may
    /// be sent to the server as soon as it is seen here. A position that another process has
    /// recorded is seen within 10 s.
    #[must_use]
    pub fn follow(&self, stream: Uuid, acknowledged: Position) -> watch::Receiver<Position> {
        self.raise(stream, acknowledged);
        let mut known = self.known();
        known.entry(stream).or_default().acknowledged.subscribe()
    }

    /// Notes how far the log of a stream's server was seen to reach.
    pub fn saw(&self, stream: Uuid, wal_end: u64) {
        let mut known = self.known();
        let seen = &mut known.entry(stream).or_default().wal_end;
        *seen = wal_end.max(*seen);
    }

    /// Whether the log of a stream's server was seen to reach that position.
    pub(super) fn has_seen(&self, stream: Uuid, position: Position) -> bool {
        let known = self.known();
        known
            .get(&stream)
            .is_some_and(|it| it.wal_end >= position.lsn)
    }

    /// Notes what is on record for a stream.
    pub(super) fn raise(&self, stream: Uuid, acknowledged: Position) {
        let mut known = self.known();
        let known = known.entry(stream).or_default();
        known.acknowledged.send_if_modified(|present| {
            let rises = acknowledged > *present;
            *present = acknowledged.max(*present);
            rises
        });
    }

    /// Forgets the streams that are not among these, and that nobody follows.
    pub(super) fn keep(&self, streams: &[Uuid]) {
        self.known().retain(|stream, known| {
            known.acknowledged.receiver_count() > 0 || streams.contains(stream)
        });
    }

    /// Records what was stored, and answers what is on record then.
    ///
    /// # Errors
    /// CHANGE_STREAM_NOT_READY when it is not any more; METADATA_UNAVAILABLE.
    pub(super) async fn record(&self, stream: Uuid, position: Position) -> Result<Position> {
        let (caller, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            let waiting = waiting.entry(stream).or_default();
            waiting.highest = waiting.highest.max(position);
            waiting.callers.push(caller);
        }
        self.asked.notify_one();
        tokio::select! {
            answer = answer => answer.unwrap_or_else(|_| Err(shutting_down())),
            () = self.tasks.stopping() => Err(shutting_down()),
        }
    }

    /// Records what callers ask for, as long as the process serves.
    pub(in crate::app) async fn run(self) {
        loop {
            tokio::select! {
                () = self.tasks.stopping() => return,
                () = self.asked.notified() => {}
            }
            let taken = std::mem::take(&mut *self.waiting());
            if !taken.is_empty() {
                self.commit(taken).await;
            }
        }
    }

    async fn commit(&self, mut taken: HashMap<Uuid, Waiting>) {
        let stored = taken.iter().map(|(uid, waiting)| (*uid, waiting.highest));
        let stored: Vec<(Uuid, Position)> = stored.collect();
        match self.store.acknowledge(&stored).await {
            Ok(on_record) => {
                for (stream, position) in on_record {
                    self.raise(stream, position);
                    let waiting = taken.remove(&stream).unwrap_or_default();
                    for caller in waiting.callers {
                        // A caller that has gone needs no answer.
                        let _ = caller.send(Ok(position));
                    }
                }
                refuse(taken, &|| {
                    let message = "the change stream is not READY any more";
                    Error::new(Reason::ChangeStreamNotReady, message)
                });
            }
            Err(error) => refuse(taken, &|| error.repeated()),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Uuid, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Uuid, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse(waiting: HashMap<Uuid, Waiting>, error: &dyn Fn() -> Error) {
    for caller in waiting.into_values().flat_map(|waiting| waiting.callers) {
        // A caller that has gone needs no answer.
        let _ = caller.send(Err(error()));
    }
}
