//! Renews the lease of an operation while a worker executes it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{super::notifier::changed, dispatch::StepEngine};
use crate::{
    domain::{Error, Reason},
    store::lease::Renewal,
};

/// How long a worker may take after the commit that has ended the operation.
const LAST_WORDS: Duration = Duration::from_secs(3600);

/// State of a lease, shared by the worker and the task that renews it.
#[derive(Clone)]
pub(super) struct Lease {
    /// Cancelled when the claim is lost, for example to another worker.
    pub(super) lost: CancellationToken,
    /// Cancelled when the operation shall be cancelled.
    pub(super) cancel_requested: CancellationToken,
    /// Until when the lease is certainly valid, by this process's monotonic clock.
    until: Arc<Mutex<Instant>>,
}

impl Lease {
    pub(super) fn new(until: Instant) -> Self {
        Self {
            lost: CancellationToken::new(),
            cancel_requested: CancellationToken::new(),
            until: Arc::new(Mutex::new(until)),
        }
    }

    fn extend(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn has_expired(&self) -> bool {
        Instant::now() >= *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when the lease may have expired. It sets no timer: it reads the clock whenever it
    /// is polled. `select!` with `biased` polls it before the work, so after a freeze the
    /// process does not continue the work. That matters for effects outside the metadata, which
    /// check no token.
    pub(super) async fn expired(&self) {
        std::future::poll_fn(|_| match self.has_expired() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}

/// Renews a lease until it is lost or the operation has ended.
pub(super) async fn keep(engine: StepEngine, id: uuid::Uuid, token: i64, lease: Lease) {
    let length = engine.settings.lease;
    let mut changes = engine.notifier.subscribe();
    let mut pause = length / 3;
    loop {
        // One sleep per round: notifications about other operations do not restart it.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // A request to cancel notifies, and is passed on at once.
            () = changed(&mut changes, id) => {}
        }
        // Measured before the query, so that this process never believes in its lease for longer
        // than the database does.
        let asked = Instant::now();
        let seconds = length.as_secs_f64();
        // Three attempts fit into a lease, so one connection that has gone silent does not lose
        // it.
        let renewing = engine.store.renew_lease(id, token, seconds);
        let renewed = tokio::time::timeout(length / 5, renewing).await;
        let renewed = renewed.unwrap_or_else(|_| Err(unanswered()));
        pause = match renewed {
            Ok(_) => length / 3,
            Err(_) => length / 30,
        };
        match renewed {
            Ok(Renewal::Held) => lease.extend(asked + length),
            Ok(Renewal::CancelRequested) => {
                lease.extend(asked + length);
                lease.cancel_requested.cancel();
            }
            // Another connection may see the end before the worker has the answer to its own
            // commit.
            Ok(Renewal::Ended) => return lease.extend(asked + LAST_WORDS),
            Ok(Renewal::Lost) => return lease.lost.cancel(),
            Err(error) => tracing::warn!(operation = %id, error = %error, "cannot renew a lease"),
        }
    }
}

fn unanswered() -> Error {
    let message = "the metadata database did not answer in time";
    Error::new(Reason::MetadataUnavailable, message)
}
