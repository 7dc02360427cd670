//! The claims that this process works on, and those that it does not know of.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::dispatch::StepEngine;
use crate::{domain::Result, store::lease::Claim};

/// A claim: the operation and its fencing token.
type Key = (Uuid, i64);

/// The claims of this process. The metadata can have more on record: when a connection
/// breaks, a claim may be committed whose answer never arrives, or a claim that is given
/// back stays. No worker would execute these operations until their leases run out.
#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    claims: HashSet<Key>,
    /// When a statement that claims or gives back has failed the last time.
    failed: Option<Instant>,
}

/// Counts a claim among those of this process until it is dropped.
pub(super) struct Holding {
    held: Arc<Held>,
    key: Key,
}

impl Held {
    /// Says that a statement that claims or gives back has failed: it may have been
    /// committed all the same, or still be.
    pub(super) fn note_failure(&self) {
        self.inner().failed = Some(Instant::now());
    }

    /// The claims of this process, if a statement has failed within `time`.
    fn after_failure(&self, time: Duration) -> Option<Vec<Key>> {
        let inner = self.inner();
        let failed = inner.failed?;
        (failed.elapsed() < time).then(|| inner.claims.iter().copied().collect())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a claim among those of this process. Called by the dispatcher before its next
/// [`give_back_unknown`].
pub(super) fn hold(held: &Arc<Held>, claim: &Claim) -> Holding {
    let key = (claim.id, claim.token);
    held.inner().claims.insert(key);
    Holding {
        held: Arc::clone(held),
        key,
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.held.inner().claims.remove(&self.key);
    }
}

/// After a failure, gives back the claims that are on record for this process and that it
/// does not know of. Repeated for the time of a lease: a statement that has failed here can
/// be committed later.
pub(super) async fn give_back_unknown(engine: &StepEngine) -> Result<()> {
    let Some(known) = engine.held.after_failure(engine.settings.lease) else {
        return Ok(());
    };
    let given_back = engine.store.release_unknown(engine.worker, &known).await?;
    if given_back > 0 {
        tracing::info!(
            operations = given_back,
            "gave back claims whose answers were lost"
        );
    }
    Ok(())
}
