//! The dispatcher: claims due operations and hands each to a worker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use uuid::Uuid;

use super::{
    super::{
        Settings,
        admin::Servers,
        hosts::{Answers, Hosts},
        notifier::Notifier,
        ports::Ports,
        supervision::Supervisor,
        tasks::Tasks,
    },
    engine::work,
    held::{Held, give_back_unknown, hold},
    plans,
};
use crate::{
    domain::{Error, Reason, Result, clock::Clock, random::Random},
    failpoint,
    store::{
        Store,
        lease::{Capability, Claim, Due},
        sealing::Keyring,
    },
};

/// How many long operations may run beside the workers, per worker: see `make_room` in `engine`.
pub(crate) const LONG_FOR_EACH: usize = 4;

/// Pause after a failed claim. The metadata is probably unavailable.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);

/// Shortest sleep. It prevents a busy loop if the clocks of process and database differ.
const MIN_SLEEP: Duration = Duration::from_millis(20);

/// What workers and their steps use. Cheap to clone.
#[derive(Clone)]
pub(crate) struct StepEngine {
    pub(in crate::app) store: Store,
    pub(in crate::app) keyring: Keyring,
    pub(in crate::app) random: Arc<dyn Random>,
    pub(in crate::app) clock: Arc<dyn Clock>,
    /// Unique id of the workers of this process; part of each claim.
    pub(in crate::app) worker: Uuid,
    pub(in crate::app) hosts: Hosts,
    pub(in crate::app) servers: Servers,
    pub(in crate::app) ports: Ports,
    pub(in crate::app) supervisor: Supervisor,
    pub(in crate::app) answers: Answers,
    pub(in crate::app) notifier: Notifier,
    pub(in crate::app) tasks: Tasks,
    pub(in crate::app) settings: Arc<Settings>,
    /// The claims that this process works on.
    pub(in crate::app) held: Arc<Held>,
    /// Permits of long operations, which run beside the workers.
    pub(in crate::app) long_operations: Arc<Semaphore>,
}

impl StepEngine {
    /// Claims operations until the process stops. A permit is acquired before each claim, so the
    /// process never holds a claim that no worker can execute.
    pub(in crate::app) async fn dispatch(self) {
        let plans: Vec<String> = plans::ALL.iter().map(|plan| plan.key()).collect();
        let workers = self.settings.workers;
        let permits = Arc::new(Semaphore::new(workers));
        // A server that hangs can occupy half of the workers at most.
        let of_one_instance = i64::try_from(workers.div_ceil(2)).unwrap_or(i64::MAX);
        while let Some(permit) = self.permit(&permits).await {
            let capability = Capability {
                worker: self.worker,
                host: self.hosts.here(),
                plans: &plans,
                lease_seconds: self.settings.lease.as_secs_f64(),
                of_one_instance,
            };
            match self.claim(&capability).await {
                Ok(Some((claim, until))) => {
                    let holding = hold(&self.held, &claim);
                    let work = work(self.clone(), claim, until, permit);
                    self.tasks.spawn(async move {
                        work.await;
                        drop(holding);
                    });
                }
                Ok(None) => {
                    drop(permit);
                    self.idle(&capability).await;
                }
                Err(error) => {
                    drop(permit);
                    self.held.note_failure();
                    tracing::warn!(error = %error, detail = error.internal_detail(), "cannot claim operations");
                    self.pause(OUTAGE_PAUSE).await;
                }
            }
        }
    }

    /// Claims one operation. Returns the claim and the time until which it is certainly valid.
    async fn claim(&self, capability: &Capability<'_>) -> Result<Option<(Claim, Instant)>> {
        give_back_unknown(self).await?;
        // Taken before the query: the database's clock starts the lease later, so this process
        // never believes in its lease for longer than the database does.
        let until = Instant::now() + self.settings.lease;
        let claim = self.store.claim_operation(capability).await?;
        if claim.is_some() && failpoint::loses("operations.claim.answer") {
            let message = "the answer to a claim was lost";
            return Err(Error::new(Reason::MetadataUnavailable, message));
        }
        Ok(claim.map(|claim| (claim, until)))
    }

    async fn permit(&self, permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = self.tasks.stopping() => None,
            permit = Arc::clone(permits).acquire_owned() => permit.ok(),
        }
    }

    /// Sleeps until an operation is due, at most for the scan interval. A failed query counts as
    /// "some were left out", so that the next free worker looks again.
    async fn idle(&self, capability: &Capability<'_>) {
        let longest = self.settings.scan_interval;
        let agenda = self.notifier.agenda();
        agenda.clear();
        let due = self.store.next_due(capability).await;
        let due = due.unwrap_or(Due {
            seconds: None,
            full: true,
        });
        agenda.set_full(due.full);
        let sleep = due.seconds.map_or(longest, |seconds| {
            Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(longest)
        });
        self.pause(sleep.clamp(MIN_SLEEP, longest)).await;
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.tasks.stopping() => {}
            () = self.notifier.agenda().reached(Instant::now() + time) => {}
        }
    }
}
