//! Supervision leases: of the processes that can supervise a scope, one does.
//!
//! A scope is a host, or the servers of all providers without hosts. The process with the lease
//! of a scope watches its servers. The others stand by, and try to take the lease. Two checks
//! guard it: the database refuses writes with an old token, and [`Term::over`] stops a process
//! whose lease may have expired before it has an effect outside the metadata.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    domain::{Result, instance::Server},
    store::{Store, leases::Held},
};

/// The lease of this process on a scope.
#[derive(Clone, Debug)]
pub(super) struct Term {
    /// Resource and fencing token, for [`holds_lease`](crate::store::Tx::holds_lease).
    pub(super) held: Held,
    lost: CancellationToken,
    /// Until when the lease is certainly valid, by this process's monotonic clock.
    until: Arc<Mutex<Instant>>,
}

impl Term {
    fn new(held: Held, until: Instant) -> Self {
        Self {
            held,
            lost: CancellationToken::new(),
            until: Arc::new(Mutex::new(until)),
        }
    }

    fn extend(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn is_over(&self) -> bool {
        self.lost.is_cancelled()
            || Instant::now() >= *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when the lease is lost or may have expired. It reads the clock whenever it is
    /// polled. `select!` with `biased` polls it before the work, so after a freeze the process
    /// does not continue the work.
    pub(super) async fn over(&self) {
        let expired = std::future::poll_fn(|_| match self.is_over() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        tokio::select! {
            biased;
            () = expired => {}
            () = self.lost.cancelled() => {}
        }
    }
}

/// The leases on scopes that this process holds.
#[derive(Debug, Default)]
pub(in crate::app) struct Terms(Mutex<HashMap<Uuid, Term>>);

impl Terms {
    /// The lease on the scope of a server; none if this process does not hold it.
    pub(super) fn of(&self, server: &Server) -> Option<Term> {
        let term = self.all().get(&scope(server)).cloned();
        term.filter(|term| !term.is_over())
    }

    /// Takes or renews the lease of a scope. Returns `true` if it was taken, not renewed.
    pub(super) async fn keep(
        &self,
        store: &Store,
        worker: Uuid,
        scope: Uuid,
        length: Duration,
    ) -> Result<bool> {
        // Measured before the query, so that this process never believes in its lease for longer
        // than the database does.
        let (asked, seconds) = (Instant::now(), length.as_secs_f64());
        let present = self.all().get(&scope).cloned();
        if let Some(term) = present {
            if !store.renew_leases(&[term.held], seconds).await?.is_empty() {
                term.extend(asked + length);
                return Ok(false);
            }
            tracing::warn!(%scope, "another process supervises the servers");
            self.all().remove(&scope);
            term.lost.cancel();
        }
        let Some(held) = store.take_lease(scope, worker, seconds).await? else {
            return Ok(false);
        };
        tracing::info!(%scope, token = held.token, "this process supervises the servers");
        self.all().insert(scope, Term::new(held, asked + length));
        Ok(true)
    }

    /// Gives all leases back, so that another process can take them at once.
    pub(super) async fn give_back(&self, store: &Store) -> Result<()> {
        let terms = std::mem::take(&mut *self.all());
        for term in terms.values() {
            term.lost.cancel();
        }
        let held: Vec<Held> = terms.values().map(|term| term.held).collect();
        store.renew_leases(&held, 0.0).await.map(|_| ())
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Uuid, Term>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The scope of a server: its host, or the nil UUID for a server without a host.
fn scope(server: &Server) -> Uuid {
    server.host().unwrap_or(Uuid::nil())
}
