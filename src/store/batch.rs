//! Combines concurrent reads of single rows into one query.
//!
//! A read that finds a free lane starts a query at once. A read that finds all lanes busy waits
//! for the next query, together with all other reads that arrive meanwhile. So every read is
//! answered by a query that began after the read arrived, and a higher load needs fewer queries
//! per read.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::oneshot,
    time::{Duration, timeout},
};
use tokio_util::task::TaskTracker;

use crate::domain::{Error, Reason, Result};

/// Number of lanes: queries that run at once. A query to a silent host does not block the other.
const PLACES: usize = 2;

/// Most reads in one query.
const MOST: usize = 128;

/// Results of a query, by key. A row that cannot be read affects only its own key.
pub(super) type Found<K, V> = HashMap<K, Result<V>>;

/// Combined reads of one kind of row. Cheap to clone.
pub(super) struct Batch<K, V>(Arc<Mutex<Waiting<K, V>>>);

struct Waiting<K, V> {
    reads: VecDeque<Read<K, V>>,
    lanes_taken: usize,
}

struct Read<K, V> {
    key: K,
    answer: oneshot::Sender<Result<Option<V>>>,
}

impl<K, V> Batch<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + 'static,
{
    /// Reads the value of a key by `query`, which gets keys without duplicates and must have a
    /// limit of its own. All callers must pass the same query, because it also serves the
    /// others' keys. It runs on `tasks`, and continues if this caller goes away.
    ///
    /// # Errors
    /// Errors of the query; METADATA_UNAVAILABLE when there is no answer within `limit`;
    /// INTERNAL when the query panics.
    pub(super) async fn read<F>(
        &self,
        tasks: &TaskTracker,
        key: K,
        limit: Duration,
        query: impl Fn(Vec<K>) -> F + Send + 'static,
    ) -> Result<Option<V>>
    where
        F: Future<Output = Result<Found<K, V>>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        if let Some(lane) = self.ask(Read { key, answer }) {
            tasks.spawn(serve(lane, query));
        }
        match timeout(limit, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::internal("a query of a batch has panicked")),
            Err(_) => {
                let message = "the metadata database is not available: it did not answer in time";
                Err(Error::new(Reason::MetadataUnavailable, message))
            }
        }
    }

    /// Queues a read. Returns a lane if one is free; the caller must then serve it.
    fn ask(&self, read: Read<K, V>) -> Option<Lane<K, V>> {
        let mut waiting = self.waiting();
        waiting.reads.push_back(read);
        if waiting.lanes_taken == PLACES {
            return None;
        }
        waiting.lanes_taken += 1;
        Some(Lane {
            batch: self.clone(),
            left: false,
        })
    }
}

/// A lane, in which one query after the other runs.
struct Lane<K, V> {
    batch: Batch<K, V>,
    left: bool,
}

impl<K, V> Lane<K, V> {
    /// Takes the reads of the next query. If there are none the lane is freed under the same
    /// lock, so a later read finds it free.
    fn next(&mut self) -> Option<Vec<Read<K, V>>> {
        let mut waiting = self.batch.waiting();
        let number = waiting.reads.len().min(MOST);
        if number == 0 {
            waiting.lanes_taken -= 1;
            self.left = true;
            return None;
        }
        Some(waiting.reads.drain(..number).collect())
    }
}

impl<K, V> Drop for Lane<K, V> {
    fn drop(&mut self) {
        // If it was not left, the query has panicked or the runtime shuts down.
        if self.left {
            return;
        }
        let mut waiting = self.batch.waiting();
        waiting.lanes_taken -= 1;
        if waiting.lanes_taken == 0 {
            // No lane serves the queue any more: the waiting callers get an error now.
            waiting.reads.clear();
        }
    }
}

async fn serve<K, V, F>(mut lane: Lane<K, V>, query: impl Fn(Vec<K>) -> F)
where
    K: Clone + Eq + Hash,
    V: Clone,
    F: Future<Output = Result<Found<K, V>>>,
{
    loop {
        // Lets other tasks that are about to read queue first, so that they share the query.
        tokio::task::yield_now().await;
        let Some(mut reads) = lane.next() else {
            return;
        };
        // Callers that have gone away need no answer.
        reads.retain(|read| !read.answer.is_closed());
        let keys: HashSet<K> = reads.iter().map(|read| read.key.clone()).collect();
        if keys.is_empty() {
            continue;
        }
        let found = query(keys.into_iter().collect()).await;
        for Read { key, answer } in reads {
            let _ = answer.send(match &found {
                Ok(found) => repeated(found.get(&key)),
                Err(error) => Err(error.repeated()),
            });
        }
    }
}

fn repeated<V: Clone>(found: Option<&Result<V>>) -> Result<Option<V>> {
    match found {
        Some(Ok(value)) => Ok(Some(value.clone())),
        Some(Err(error)) => Err(error.repeated()),
        None => Ok(None),
    }
}

impl<K, V> Batch<K, V> {
    fn waiting(&self) -> MutexGuard<'_, Waiting<K, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Default for Batch<K, V> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Waiting {
            reads: VecDeque::new(),
            lanes_taken: 0,
        })))
    }
}

impl<K, V> Clone for Batch<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, V> fmt::Debug for Batch<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting();
        formatter
            .debug_struct("Batch")
            .field("reads", &waiting.reads.len())
            .field("lanes_taken", &waiting.lanes_taken)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A query that waits at a gate, returns twice the key, and records its keys.
    #[derive(Clone, Default)]
    struct Query {
        asked: Arc<Mutex<Vec<Vec<u32>>>>,
    }

    impl Query {
        async fn run(self, gate: Arc<Semaphore>, keys: Vec<u32>) -> Result<Found<u32, u32>> {
            self.asked.lock().unwrap().push(keys.clone());
            gate.acquire().await.unwrap().forget();
            let value = |key: u32| match key {
                13 => Err(Error::new(Reason::Internal, "unreadable")),
                key => Ok(2 * key),
            };
            if keys.contains(&66) {
                return Err(Error::new(Reason::MetadataUnavailable, "away"));
            }
            let known = keys.into_iter().filter(|key| *key < 100);
            Ok(known.map(|key| (key, value(key))).collect())
        }
    }

    async fn read(
        batch: &Batch<u32, u32>,
        query: &Query,
        gate: &Arc<Semaphore>,
        key: u32,
    ) -> Result<Option<u32>> {
        let (query, gate) = (query.clone(), Arc::clone(gate));
        let run = move |keys| query.clone().run(Arc::clone(&gate), keys);
        batch.read(&TaskTracker::new(), key, LIMIT, run).await
    }

    /// Waits until all lanes are free.
    async fn at_rest(batch: &Batch<u32, u32>) {
        while batch.waiting().lanes_taken > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn reads_that_wait_share_a_query() {
        let (batch, query) = (Batch::default(), Query::default());
        let gate = Arc::new(Semaphore::new(0));
        let keys = [1, 2, 3, 4, 3, 13, 100];
        let reads = join_all(keys.map(|key| read(&batch, &query, &gate, key)));
        let let_go = async {
            while query.asked.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            gate.add_permits(10);
        };
        let (answers, ()) = tokio::join!(reads, let_go);
        let answers: Vec<_> = answers
            .into_iter()
            .map(|answer| answer.map_err(|error| error.reason()))
            .collect();
        let (unreadable, absent) = (Err(Reason::Internal), Ok(None));
        let twice = [2, 4, 6, 8, 6].map(|value| Ok(Some(value)));
        assert_eq!(answers[..5], twice);
        assert_eq!(answers[5..], [unreadable, absent]);
        let asked = query.asked.lock().unwrap().clone();
        let lengths: Vec<usize> = asked.iter().map(Vec::len).collect();
        // The first reads may share a query or not, but no key is queried twice.
        assert_eq!(lengths.iter().sum::<usize>(), 6, "{asked:?}");
        assert!(lengths.len() <= PLACES + 1, "{asked:?}");
        at_rest(&batch).await;
    }

    #[tokio::test]
    async fn an_error_is_told_to_all_and_the_next_query_goes_on() {
        let (batch, query) = (Batch::default(), Query::default());
        let gate = Arc::new(Semaphore::new(100));
        let failed = read(&batch, &query, &gate, 66).await;
        assert_eq!(failed.unwrap_err().reason(), Reason::MetadataUnavailable);
        assert_eq!(read(&batch, &query, &gate, 7).await.unwrap(), Some(14));
    }

    #[tokio::test]
    async fn a_query_that_hangs_or_panics_holds_nobody_for_ever() {
        let (batch, query) = (Batch::default(), Query::default());
        let (gate, tasks) = (Arc::new(Semaphore::new(0)), TaskTracker::new());
        for _ in 0..2 * PLACES {
            let (query, gate) = (query.clone(), Arc::clone(&gate));
            let hangs = move |keys| query.clone().run(Arc::clone(&gate), keys);
            let answer = batch
                .read(&tasks, 1, Duration::from_millis(20), hangs)
                .await;
            assert_eq!(answer.unwrap_err().reason(), Reason::MetadataUnavailable);
        }
        gate.add_permits(100);
        assert_eq!(read(&batch, &query, &gate, 5).await.unwrap(), Some(10));
        at_rest(&batch).await;
        for _ in 0..2 * PLACES {
            let panics = |_| async { panic!("a defect") };
            assert!(batch.read(&tasks, 1, LIMIT, panics).await.is_err());
        }
        at_rest(&batch).await;
        assert_eq!(read(&batch, &query, &gate, 6).await.unwrap(), Some(12));
    }
}
