//! Workers: they claim operations and carry out their steps.

use std::{
    convert::Infallible,
    future::pending,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Span, field};

use super::{
    context::Context,
    dispatch::StepEngine,
    keeper::{Lease, keep},
    plan::{Commit, End, LONGEST_WAIT, Plan, Step},
    plans,
    retry::{Verdict, after_panic, delay, verdict},
};
use crate::{
    domain::{
        Error, Reason, Result,
        operation::{Failure, StageState, State},
        provider::Wait,
    },
    failpoint,
    store::{Tx, lease::Claim},
    telemetry::{census::count_ended, spans},
};

/// First and longest pause before a step is tried again while the metadata is away.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_OUTAGE_PAUSE: Duration = Duration::from_secs(4);

/// Pause before an operation is looked at again whose resource this release cannot read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(30);

/// Seconds for which the other operations on a server's databases rest when it does not
/// answer one of them.
const SILENT_PAUSE: f64 = 30.0;

/// Waits without a pause that may follow each other, and the pause after them.
const INSTANT_WAITS: u32 = 10;
const PACE: Duration = Duration::from_millis(200);

/// How long an operation keeps a worker to itself.
const LONG: Duration = Duration::from_secs(2);

/// The span of a worker's time with an operation, linked to that of the call that began it.
/// Of level ERROR, so that no log filter takes it.
fn open(claim: &Claim) -> Span {
    let span = tracing::error_span!(
        parent: None,
        "operation",
        id = %claim.id,
        kind = claim.kind,
        token = claim.token,
        otel.name = claim.kind,
        otel.status_code = field::Empty,
        "error.type" = field::Empty,
    );
    spans::link(&span, claim.traceparent.as_deref());
    span
}

/// Carries an operation as far as it goes, as long as the lease holds.
pub(super) async fn work(
    engine: StepEngine,
    claim: Claim,
    until: Instant,
    permit: OwnedSemaphorePermit,
) {
    let span = open(&claim);
    let lease = Lease::new(until);
    let keeper = keep(engine.clone(), claim.id, claim.token, lease.clone());
    // Also ended by a panic: the lease runs out then, and the step is retried.
    let _keeper = AbortOnDropHandle::new(engine.tasks.spawn(keeper));
    let (id, token) = (claim.id, claim.token);
    let steps = tracing::Instrument::instrument(carry_out(&engine, claim, &lease), span);
    let left = {
        let mut room = pin!(make_room(&engine, permit));
        tokio::select! {
            biased;
            never = &mut room => match never {},
            () = lease.lost.cancelled() => {
                tracing::warn!(operation = %id, "lease lost");
                let_go(&engine, id, token).await;
                Left::Anyhow
            }
            () = lease.expired() => {
                tracing::warn!(operation = %id, "lease expired");
                let_go(&engine, id, token).await;
                Left::Anyhow
            }
            () = engine.tasks.stopping() => {
                let _ = engine.store.release_operation(id, token, 0.0, None).await;
                Left::Anyhow
            }
            left = steps => left,
        }
    };
    match left {
        Left::Waiting(due) => engine.notifier.agenda().add(due),
        Left::Anyhow => engine.notifier.look_now(),
    }
}

/// Keeps the permit of an operation, and gives it to others when the operation takes long,
/// as one does whose server or program hangs: the process would work on nothing else. A
/// bounded number of them can be under way beside the workers.
async fn make_room(engine: &StepEngine, permit: OwnedSemaphorePermit) -> Infallible {
    tokio::time::sleep(LONG).await;
    let Ok(_beside) = Arc::clone(&engine.long_operations).acquire_owned().await else {
        return pending().await;
    };
    drop(permit);
    // Something may be due for the worker that is free now.
    engine.notifier.look_now();
    pending().await
}

/// How a worker left an operation.
enum Left {
    /// It waits for something outside, and is looked at again then. Nothing else has become
    /// due by it.
    Waiting(Instant),
    /// In any other way: what waited for it may be due.
    Anyhow,
}

/// What comes after a try of a step.
enum Next {
    /// Go on with the operation as it is now.
    Go(Box<Claim>),
    /// Leave it: it is done, or due later.
    Leave(Left),
}

async fn carry_out(engine: &StepEngine, claim: Claim, lease: &Lease) -> Left {
    let Some(plan) = plans::find(&claim.kind, claim.plan_version) else {
        tracing::error!(kind = claim.kind, "claimed an operation of an unknown kind");
        return Left::Anyhow;
    };
    let mut context = Context {
        engine: engine.clone(),
        claim,
    };
    // Tries in a row that have failed here.
    let mut failures = 0;
    loop {
        let attempt = async {
            match context.claim.state {
                State::Undoing => take_back(&context, plan).await,
                _ => advance(&context, plan, lease).await,
            }
        };
        let caught = AssertUnwindSafe(attempt).catch_unwind().await;
        let panicked = caught.is_err();
        let tried = caught.unwrap_or_else(|_| Err(Error::internal("a step panicked")));
        failures = if tried.is_ok() { 0 } else { failures + 1 };
        match tried {
            Ok(Next::Go(claim)) => context.claim = *claim,
            Ok(Next::Leave(left)) => return left,
            Err(error) => match failed(&context, plan, error, (failures, panicked)).await {
                Next::Go(claim) => context.claim = *claim,
                Next::Leave(left) => return left,
            },
        }
    }
}

/// Does the step that is next.
async fn advance(context: &Context, plan: &'static Plan, lease: &Lease) -> Result<Next> {
    let claim = &context.claim;
    if plan.cancellable() && claim.cancel_requested {
        return cancel(context, plan).await;
    }
    let current = plan
        .step(claim.position)
        .ok_or_else(|| Error::internal(format!("{} has no step {}", claim.kind, claim.position)))?;
    if claim.waited.is_zero() && mark_running(context).await? && plan.cancellable() {
        return cancel(context, plan).await;
    }
    kill_point(plan, current, "before_effect");
    let acted = tokio::select! {
        biased;
        // What it has begun outside goes on, as after a crash, and is taken back after it.
        () = lease.cancel_requested.cancelled(), if plan.cancellable() => {
            return cancel(context, plan).await;
        }
        acted = (current.act)(context) => acted?,
    };
    let work = match acted {
        End::Done(work) => work,
        End::Later(work, wait) => {
            refuse_endless(claim, &wait)?;
            return wait_outside(context, plan, current, work, wait).await;
        }
    };
    kill_point(plan, current, "before_commit");
    let mut tx = checked(context, plan).await?;
    work(&mut tx).await?;
    tx.set_stage(claim.id, claim.position, StageState::Succeeded)
        .await?;
    let next = claim.position + 1;
    let done = plan.step(next).is_none();
    let mut cancel_requested = false;
    if done {
        let outcome = (plan.outcome)(&mut tx, claim.target_uid).await?;
        let response = context.engine.answers.response(outcome)?;
        tx.finish_operation(claim.id, &response).await?;
    } else {
        cancel_requested = tx.move_operation(claim.id, next).await?;
    }
    tx.commit().await?;
    kill_point(plan, current, "after_commit");
    if done {
        tracing::info!(target = claim.target, "operation succeeded");
        count_ended(&claim.kind, State::Succeeded.as_str());
        context.engine.notifier.announce(claim.id);
        // After the commit: before, the server would not seem meant to run.
        if claim.parent_uid.is_none() {
            context.engine.supervisor.look_after_all(claim.target_uid);
        }
        return Ok(Next::Leave(Left::Anyhow));
    }
    Ok(Next::Go(Box::new(Claim {
        position: next,
        attempt: 1,
        waited: Duration::ZERO,
        pursued: Duration::ZERO,
        instant_waits: 0,
        cancel_requested,
        ..claim.clone()
    })))
}

/// Has the steps taken back, as was asked for.
async fn cancel(context: &Context, plan: &'static Plan) -> Result<Next> {
    let message = "cancelled by request";
    let why = failure(&Error::new(Reason::OperationCancelled, message));
    turn_round(context, plan, &why).await
}

/// A transaction for the end of a step, in which no other caller can end the operation. All who
/// lock several operations of an instance do so in the order of their ids.
async fn checked(context: &Context, plan: &Plan) -> Result<Tx> {
    let claim = &context.claim;
    let mut tx = context.engine.store.begin().await?;
    // What has a way back is a creation: it has no children.
    if claim.parent_uid.is_none() && !plan.cancellable() {
        tx.lock_family_of(claim.target_uid).await?;
    }
    tx.check_token(claim.id, claim.token).await?;
    Ok(tx)
}

/// Whether the step has waited longer than [`LONGEST_WAIT`]: it is not tried again then.
fn has_waited_enough(claim: &Claim) -> bool {
    claim.waited > LONGEST_WAIT
}

fn refuse_endless(claim: &Claim, wait: &Wait) -> Result<()> {
    if !has_waited_enough(claim) {
        return Ok(());
    }
    let (minutes, what) = (claim.waited.as_secs() / 60, &wait.waits_for);
    let message = format!("gave up after {minutes} minutes of waiting: {what}");
    Err(Error::new(Reason::ServerUnavailable, message))
}

/// Commits what a look has found, and leaves the operation until the next one.
async fn wait_outside(
    context: &Context,
    plan: &Plan,
    step: &Step,
    work: Option<Commit>,
    wait: Wait,
) -> Result<Next> {
    let claim = &context.claim;
    let wait = &paced(claim, wait);
    kill_point(plan, step, "before_wait");
    let store = &context.engine.store;
    let next = match work {
        None if !wait.at_most.is_zero() => later(store.let_wait(claim, wait).await?),
        work => commit_wait(context, work, wait).await?,
    };
    kill_point(plan, step, "after_wait");
    Ok(next)
}

/// Leaves an operation whose next look is due after that pause.
fn later(pause: Duration) -> Next {
    Next::Leave(Left::Waiting(Instant::now() + pause))
}

/// A wait without a pause, unless there were too many in a row.
fn paced(claim: &Claim, wait: Wait) -> Wait {
    match wait.at_most.is_zero() && claim.instant_waits >= INSTANT_WAITS {
        true => Wait {
            at_most: PACE,
            ..wait
        },
        false => wait,
    }
}

/// Commits what a look has found. The next one follows at once where the wait has no pause.
async fn commit_wait(context: &Context, work: Option<Commit>, wait: &Wait) -> Result<Next> {
    let claim = &context.claim;
    let mut tx = context.engine.store.begin().await?;
    let cancel_requested = tx.check_token(claim.id, claim.token).await?;
    if let Some(work) = work {
        work(&mut tx).await?;
    }
    let next = match wait.at_most.is_zero() {
        true => {
            tx.show_wait(claim.id, claim.position, wait).await?;
            Next::Go(Box::new(Claim {
                instant_waits: claim.instant_waits + 1,
                cancel_requested,
                ..claim.clone()
            }))
        }
        false => later(tx.let_wait(claim, wait).await?),
    };
    tx.commit().await?;
    Ok(next)
}

/// Shows that the step has begun. Answers whether the operation is to be cancelled.
async fn mark_running(context: &Context) -> Result<bool> {
    let claim = &context.claim;
    let mut tx = context.engine.store.begin().await?;
    let cancel_requested = tx.check_token(claim.id, claim.token).await?;
    tx.set_stage(claim.id, claim.position, StageState::Running)
        .await?;
    tx.commit().await?;
    Ok(cancel_requested)
}

/// Takes the step back that is next, and ends the operation after the first one.
async fn take_back(context: &Context, plan: &'static Plan) -> Result<Next> {
    let claim = &context.claim;
    let Some(current) = plan.step(claim.position) else {
        return end(context, plan).await;
    };
    let undo = current
        .undo
        .ok_or_else(|| Error::internal(format!("{} cannot undo {}", plan.kind, current.name)))?;
    let work = match undo(context).await? {
        End::Done(work) => work,
        End::Later(work, wait) => return wait_outside(context, plan, current, work, wait).await,
    };
    kill_point(plan, current, "before_undo_commit");
    let mut tx = context.engine.store.begin().await?;
    tx.check_token(claim.id, claim.token).await?;
    work(&mut tx).await?;
    tx.set_stage(claim.id, claim.position, StageState::Undone)
        .await?;
    tx.move_operation(claim.id, claim.position - 1).await?;
    tx.commit().await?;
    kill_point(plan, current, "after_undo_commit");
    Ok(Next::Go(Box::new(Claim {
        position: claim.position - 1,
        attempt: 1,
        waited: Duration::ZERO,
        pursued: Duration::ZERO,
        instant_waits: 0,
        ..claim.clone()
    })))
}

/// Ends an operation whose steps are all taken back.
async fn end(context: &Context, plan: &'static Plan) -> Result<Next> {
    let claim = &context.claim;
    let unknown = || failure(&Error::internal("undone without a failure"));
    let why = claim.failure.clone().unwrap_or_else(unknown);
    let cancelled = why.reason == Reason::OperationCancelled.as_str();
    let state = if cancelled {
        State::Cancelled
    } else {
        State::Failed
    };
    conclude(context, plan, state, &why).await?;
    Ok(Next::Leave(Left::Anyhow))
}

async fn conclude(
    context: &Context,
    plan: &'static Plan,
    state: State,
    why: &Failure,
) -> Result<()> {
    let claim = &context.claim;
    let mut tx = checked(context, plan).await?;
    // Before `set_stage`, which clears the progress that `abandon` may read.
    (plan.abandon)(&mut tx, claim, why).await?;
    if claim.state != State::Undoing {
        tx.set_stage(claim.id, claim.position, StageState::Failed)
            .await?;
    }
    tx.fail_operation(claim.id, state, why).await?;
    tx.commit().await?;
    if state == State::Failed {
        spans::fail(&Span::current(), &why.reason);
    }
    tracing::warn!(
        target = claim.target,
        reason = why.reason,
        "operation ended without success"
    );
    count_ended(&claim.kind, state.as_str());
    context.engine.notifier.announce(claim.id);
    Ok(())
}

/// After a failure for good: takes the steps back, or ends at once where the plan
/// has no way back.
async fn turn_round(context: &Context, plan: &'static Plan, why: &Failure) -> Result<Next> {
    let claim = &context.claim;
    if !plan.cancellable() {
        conclude(context, plan, State::Failed, why).await?;
        return Ok(Next::Leave(Left::Anyhow));
    }
    let mut tx = context.engine.store.begin().await?;
    tx.check_token(claim.id, claim.token).await?;
    if why.reason != Reason::OperationCancelled.as_str() {
        tx.set_stage(claim.id, claim.position, StageState::Failed)
            .await?;
    }
    tx.undo_operation(claim.id, claim.position, why).await?;
    tx.commit().await?;
    Ok(Next::Go(Box::new(Claim {
        state: State::Undoing,
        failure: Some(why.clone()),
        attempt: 1,
        waited: Duration::ZERO,
        pursued: Duration::ZERO,
        instant_waits: 0,
        ..claim.clone()
    })))
}

/// Decides what comes after a failed try, one of so many in a row.
async fn failed(
    context: &Context,
    plan: &'static Plan,
    error: Error,
    (failures, panicked): (i32, bool),
) -> Next {
    let claim = &context.claim;
    if error.reason() == Reason::RecordUnreadable {
        // No fault of the step; a process that knows the resource's record goes on.
        return release(context, UNREADABLE_PAUSE, None).await;
    }
    tracing::warn!(
        step = plan.step(claim.position).map(|step| step.name),
        attempt = claim.attempt,
        error = %error,
        detail = error.internal_detail(),
        "a step failed"
    );
    if error.reason() == Reason::ResourceBusy && error.resource().is_none() {
        // The token is not the newest any more.
        let_go(&context.engine, claim.id, claim.token).await;
        return Next::Leave(Left::Anyhow);
    }
    let undoing = claim.state == State::Undoing;
    let verdict = match panicked {
        true => after_panic(claim.attempt, plan.tries),
        false if has_waited_enough(claim) && error.reason() != Reason::MetadataUnavailable => {
            Verdict::GiveUp
        }
        false => verdict(&error, claim.attempt, plan.tries),
    };
    match verdict {
        Verdict::Wait => {
            let pause = delay(failures).clamp(OUTAGE_PAUSE, LONGEST_OUTAGE_PAUSE);
            tokio::time::sleep(pause).await;
            Next::Go(Box::new(claim.clone()))
        }
        Verdict::Retry(delay) => {
            rest_siblings(context, &error).await;
            put_off(context, delay, &error).await
        }
        // What was begun must not be left half taken back.
        Verdict::GiveUp if undoing => {
            rest_siblings(context, &error).await;
            put_off(context, delay(claim.attempt), &error).await
        }
        Verdict::GiveUp => {
            let why = failure(&error);
            match turn_round(context, plan, &why).await {
                Ok(next) => next,
                Err(error) => put_off(context, OUTAGE_PAUSE, &error).await,
            }
        }
    }
}

/// After an error of a server that did not answer, puts off what else waits for it.
async fn rest_siblings(context: &Context, error: &Error) {
    let Some(instance) = context.claim.parent_uid.filter(|_| error.is_unanswered()) else {
        return;
    };
    let store = &context.engine.store;
    let rested = store.rest_children(instance, context.claim.id, SILENT_PAUSE);
    if let Err(error) = rested.await {
        tracing::warn!(%error, "cannot put off the operations of a silent server");
    }
}

/// Gives the operation back, to be tried again after `delay`.
async fn put_off(context: &Context, delay: Duration, error: &Error) -> Next {
    release(context, delay, Some(&failure(error))).await
}

async fn release(context: &Context, delay: Duration, why: Option<&Failure>) -> Next {
    let claim = &context.claim;
    let (store, seconds) = (&context.engine.store, delay.as_secs_f64());
    let released = store.release_operation(claim.id, claim.token, seconds, why);
    if let Err(error) = released.await {
        context.engine.held.note_failure();
        tracing::warn!(operation = %claim.id, error = %error, "cannot give an operation back");
    }
    Next::Leave(Left::Anyhow)
}

/// Says that nothing more is done for a claim that was lost or given up.
async fn let_go(engine: &StepEngine, id: uuid::Uuid, token: i64) {
    if engine.store.let_go(id, token).await.is_err() {
        engine.held.note_failure();
    }
}

fn failure(error: &Error) -> Failure {
    Failure {
        reason: error.reason().as_str().to_owned(),
        message: error.message().to_owned(),
    }
}

/// A point next to a commit at which a test can kill the process.
fn kill_point(plan: &Plan, step: &Step, place: &str) {
    if cfg!(feature = "failpoints") {
        failpoint::hit(&format!("{}.{}.{place}", plan.kind, step.name));
    }
}
