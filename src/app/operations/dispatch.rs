//! The dispatcher: it claims operations that are due and gives each to a worker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    super::App,
    engine::work,
    held::{give_back_unknown, hold},
    plans,
};
use crate::{
    domain::{Error, Reason, Result},
    failpoint,
    store::lease::{Capability, Claim, Due},
};

/// Operations that take long, for each worker, which can be under way beside the workers.
pub(crate) const LONG_FOR_EACH: usize = 4;

/// Pause after a claim that failed: the metadata is away.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);

/// Shortest sleep, against a busy loop by clock differences.
const MIN_SLEEP: Duration = Duration::from_millis(20);

/// Claims operations as long as the process serves.
pub(crate) async fn dispatch(app: App) {
    let plans: Vec<String> = plans::ALL.iter().map(|plan| plan.key()).collect();
    let workers = app.parts.settings.workers;
    let permits = Arc::new(Semaphore::new(workers));
    // A server that hangs holds half of the workers at most.
    let of_one_instance = i64::try_from(workers.div_ceil(2)).unwrap_or(i64::MAX);
    while let Some(permit) = permit(&app, &permits).await {
        let capability = Capability {
            worker: app.parts.worker,
            host: app.parts.host,
            plans: &plans,
            lease_seconds: app.parts.settings.lease.as_secs_f64(),
            of_one_instance,
        };
        match claim(&app, &capability).await {
            Ok(Some((claim, until))) => {
                let holding = hold(&app, &claim);
                let work = work(app.clone(), claim, until, permit);
                app.tasks.spawn(async move {
                    work.await;
                    drop(holding);
                });
            }
            Ok(None) => {
                drop(permit);
                idle(&app, &capability).await;
            }
            Err(error) => {
                drop(permit);
                app.held.note_failure();
                tracing::warn!(error = %error, detail = error.internal_detail(), "cannot claim operations");
                pause(&app, OUTAGE_PAUSE).await;
            }
        }
    }
}

/// Claims an operation. The answer includes until when the claim holds.
async fn claim(app: &App, capability: &Capability<'_>) -> Result<Option<(Claim, Instant)>> {
    give_back_unknown(app).await?;
    let until = Instant::now() + app.parts.settings.lease;
    let claim = app.parts.store.claim_operation(capability).await?;
    if claim.is_some() && failpoint::loses("operations.claim.answer") {
        let message = "the answer to a claim was lost";
        return Err(Error::new(Reason::MetadataUnavailable, message));
    }
    Ok(claim.map(|claim| (claim, until)))
}

async fn permit(app: &App, permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        biased;
        () = app.stopping.cancelled() => None,
        permit = Arc::clone(permits).acquire_owned() => permit.ok(),
    }
}

/// Sleeps until an operation is due or the scan interval is over.
async fn idle(app: &App, capability: &Capability<'_>) {
    let longest = app.parts.settings.scan_interval;
    app.agenda.clear();
    let due = app.parts.store.next_due(capability).await;
    let due = due.unwrap_or(Due {
        seconds: None,
        full: true,
    });
    app.agenda.set_full(due.full);
    let sleep = due.seconds.map_or(longest, |seconds| {
        Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(longest)
    });
    pause(app, sleep.clamp(MIN_SLEEP, longest)).await;
}

async fn pause(app: &App, time: Duration) {
    tokio::select! {
        () = app.stopping.cancelled() => {}
        () = app.agenda.reached(Instant::now() + time) => {}
    }
}
