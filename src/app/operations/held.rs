//! The claims of this process, and how it gives back claims that it does not know.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::dispatch::StepEngine;
use crate::{domain::Result, store::lease::Claim};

/// A claim: operation and fencing token.
type Key = (Uuid, i64);

/// The claims that this process works on. The metadata can have more on record for this process:
/// a broken connection may lose the answer of a committed claim, or may keep a claim from being
/// given back. No worker would execute those operations until their leases expire.
#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    claims: HashSet<Key>,
    /// Time of the last failed statement that claims an operation or gives it back.
    failed: Option<Instant>,
}

/// Registers a claim until it is dropped.
pub(super) struct Holding {
    held: Arc<Held>,
    key: Key,
}

impl Held {
    /// Notes that a statement that claims or gives back has failed. The database may have
    /// committed it nevertheless, or may still do so.
    pub(super) fn note_failure(&self) {
        self.inner().failed = Some(Instant::now());
    }

    /// The claims of this process, if such a statement has failed within the last `time`.
    fn after_failure(&self, time: Duration) -> Option<Vec<Key>> {
        let inner = self.inner();
        let failed = inner.failed?;
        (failed.elapsed() < time).then(|| inner.claims.iter().copied().collect())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Registers a claim. The dispatcher does so before its next [`give_back_unknown`], which would
/// otherwise take the new claim for an unknown one.
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

/// Gives back the claims that are on record for this process but unknown to it. Runs before each
/// claim for one lease after a failure, because the database can commit a failed statement late.
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
