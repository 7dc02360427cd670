//! The dispatcher: it claims operations that are due and gives each to a worker.

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

/// Operations that take long, for each worker, which can be under way beside the workers.
pub(crate) const LONG_FOR_EACH: usize = 4;

/// Pause after a claim that failed: the metadata is away.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);

/// Shortest sleep, against a busy loop by clock differences.
const MIN_SLEEP: Duration = Duration::from_millis(20);

/// What workers and their steps work with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct StepEngine {
    pub(in crate::app) store: Store,
    pub(in crate::app) keyring: Keyring,
    pub(in crate::app) random: Arc<dyn Random>,
    pub(in crate::app) clock: Arc<dyn Clock>,
    /// Unique id of this process's workers.
    pub(in crate::app) worker: Uuid,
    pub(in crate::app) hosts: Hosts,
    pub(in crate::app) servers: Servers,
    pub(in crate::app) ports: Ports,
    pub(in crate::app) supervisor: Supervisor,
    pub(in crate::app) answers: Answers,
    pub(in crate::app) notifier: Notifier,
    pub(in crate::app) tasks: Tasks,
    pub(in crate::app) settings: Arc<Settings>,
    /// Claims that this process works on.
    pub(in crate::app) held: Arc<Held>,
    /// Places beside the workers, of operations that take long.
    pub(in crate::app) long_operations: Arc<Semaphore>,
}

impl StepEngine {
    /// Claims operations as long as the process serves.
    pub(in crate::app) async fn dispatch(self) {
        let plans: Vec<String> = plans::ALL.iter().map(|plan| plan.key()).collect();
        let workers = self.settings.workers;
        let permits = Arc::new(Semaphore::new(workers));
        // A server that hangs holds half of the workers at most.
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

    /// Claims an operation. The answer includes until when the claim is valid.
    async fn claim(&self, capability: &Capability<'_>) -> Result<Option<(Claim, Instant)>> {
        give_back_unknown(self).await?;
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

    /// Sleeps until an operation is due or the scan interval is over.
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
