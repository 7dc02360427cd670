//! Keeps the lease of an operation while a worker is at it.

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

/// How long a worker may take from its last commit to its end.
const LAST_WORDS: Duration = Duration::from_secs(3600);

/// What the keeper of a lease finds out.
#[derive(Clone)]
pub(super) struct Lease {
    pub(super) lost: CancellationToken,
    pub(super) cancel_requested: CancellationToken,
    /// Until when it holds for sure, by this process's clock.
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

    /// Ready when the lease may have run out. It only looks when it is polled: before
    /// each move of the work that it stands in front of, so that a process that was
    /// frozen does nothing more outside the metadata, where no token is checked.
    pub(super) async fn expired(&self) {
        std::future::poll_fn(|_| match self.has_expired() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}

/// Renews a lease until it is lost.
pub(super) async fn keep(engine: StepEngine, id: uuid::Uuid, token: i64, lease: Lease) {
    let length = engine.settings.lease;
    let mut changes = engine.notifier.subscribe();
    let mut pause = length / 3;
    loop {
        // One pause, however often other operations change meanwhile.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // A request to cancel is passed on at once.
            () = changed(&mut changes, id) => {}
        }
        let asked = Instant::now();
        let seconds = length.as_secs_f64();
        // Three tries fit into a lease: a connection that has gone silent costs one.
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
            // The database reports it before the worker sees its own commit.
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
