//! The step engine: a worker executes the steps of an operation that it has claimed.
//!
//! Each step is an effect and then one commit. The effect may run twice, because a crash between
//! the two leaves no trace in the metadata. The commit checks the claim's token, so of two
//! workers that believe in the same operation only the one with the newest claim can write.

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
    plan::{Commit, End, LONGEST_WAIT, Plan, Step, WITHOUT_END},
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

/// First and longest pause before a step is retried while the metadata is unavailable.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_OUTAGE_PAUSE: Duration = Duration::from_secs(4);

/// Pause of an operation whose resource this release cannot read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(30);

/// Seconds for which the operations on an instance's other databases rest after the server did
/// not answer one of them.
const SILENT_PAUSE: f64 = 30.0;

/// How many waits without a pause may follow each other, and the pause after them.
const INSTANT_WAITS: u32 = 10;
const PACE: Duration = Duration::from_millis(200);

/// How long an operation may keep its worker before it goes on beside the workers.
const LONG: Duration = Duration::from_secs(2);

/// Opens the span of a worker's time with an operation, with a link to the span of the call that
/// started the operation. It has level ERROR so that no log filter drops it.
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

/// Executes an operation as far as possible while the lease is valid.
///
/// The branches of `select!` are ordered: the lease and the drain come before the steps, and are
/// polled each time before the steps are. So a worker whose lease has expired does not continue
/// the steps. Its unfinished effect is left as after a crash.
pub(super) async fn work(
    engine: StepEngine,
    claim: Claim,
    until: Instant,
    permit: OwnedSemaphorePermit,
) {
    let span = open(&claim);
    let lease = Lease::new(until);
    let keeper = keep(engine.clone(), claim.id, claim.token, lease.clone());
    // The guard also aborts the renewal when this worker panics. Then the lease expires, and
    // another worker retries the step.
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

/// Holds the worker's permit, and releases it when the operation takes long. Otherwise a few
/// operations with a server or a program that hangs would stop all work of the process. The
/// number of such long operations is bounded: at the bound the operation keeps its permit and
/// waits here.
async fn make_room(engine: &StepEngine, permit: OwnedSemaphorePermit) -> Infallible {
    tokio::time::sleep(LONG).await;
    let Ok(_beside) = Arc::clone(&engine.long_operations).acquire_owned().await else {
        return pending().await;
    };
    drop(permit);
    // The permit is free: another operation may be due.
    engine.notifier.look_now();
    pending().await
}

/// How a worker left an operation.
enum Left {
    /// It waits for something outside until that time. No other operation has become due.
    Waiting(Instant),
    /// In another way. Operations that waited for this one may be due now.
    Anyhow,
}

/// What to do after an attempt at a step.
enum Next {
    /// Continue with this state of the operation.
    Go(Box<Claim>),
    /// Stop: the operation has ended, or is due later.
    Leave(Left),
}

/// Runs attempts until the operation has ended or must wait. A panic counts as a failed attempt.
async fn carry_out(engine: &StepEngine, claim: Claim, lease: &Lease) -> Left {
    let Some(plan) = plans::find(&claim.kind, claim.plan_version) else {
        tracing::error!(kind = claim.kind, "claimed an operation of an unknown kind");
        return Left::Anyhow;
    };
    let mut context = Context {
        engine: engine.clone(),
        claim,
    };
    // Attempts in a row that have failed in this worker, for the pause while the metadata is
    // away.
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

/// Runs the effect of the next step, and commits its result.
async fn advance(context: &Context, plan: &'static Plan, lease: &Lease) -> Result<Next> {
    let claim = &context.claim;
    if plan.cancellable() && claim.cancel_requested {
        return cancel(context, plan).await;
    }
    let current = plan
        .step(claim.position)
        .ok_or_else(|| Error::internal(format!("{} has no step {}", claim.kind, claim.position)))?;
    // Shows the stage as RUNNING, and learns of a cancellation. Looks after a wait skip this.
    if claim.waited.is_zero() && mark_running(context).await? && plan.cancellable() {
        return cancel(context, plan).await;
    }
    kill_point(plan, current, "before_effect");
    let acted = tokio::select! {
        biased;
        // A cancellation drops the effect like a crash would. What it has started outside may
        // continue; the undo comes after it, because it needs the same locks.
        () = lease.cancel_requested.cancelled(), if plan.cancellable() => {
            return cancel(context, plan).await;
        }
        acted = (current.act)(context) => acted?,
    };
    let work = match acted {
        End::Done(work) => work,
        End::Later(work, wait) => {
            refuse_endless(claim, plan, &wait)?;
            return wait_outside(context, plan, current, work, wait).await;
        }
    };
    kill_point(plan, current, "before_commit");
    // From here on all writes are in one transaction: the step's own, its stage, and the move to
    // the next step or the end of the operation.
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
        // Only after the commit: before it the metadata does not say that the server shall run.
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

/// Starts the undo because a user has asked for the cancellation.
async fn cancel(context: &Context, plan: &'static Plan) -> Result<Next> {
    let message = "cancelled by request";
    let why = failure(&Error::new(Reason::OperationCancelled, message));
    turn_round(context, plan, &why).await
}

/// Begins the transaction at the end of a step, and checks the token, which locks the operation.
/// The commit of an operation on an instance may end or wake the operations on its children, so
/// they are locked first. Everyone who locks several operations of an instance does so in the
/// order of their ids, which rules out deadlocks.
async fn checked(context: &Context, plan: &Plan) -> Result<Tx> {
    let claim = &context.claim;
    let mut tx = context.engine.store.begin().await?;
    // A plan that can be undone creates its resource, which has no children yet.
    if claim.parent_uid.is_none() && !plan.cancellable() {
        tx.lock_family_of(claim.target_uid).await?;
    }
    tx.check_token(claim.id, claim.token).await?;
    Ok(tx)
}

/// Whether the step has waited longer than [`LONGEST_WAIT`]. It is not retried then.
fn has_waited_enough(claim: &Claim, plan: &Plan) -> bool {
    plan.tries != WITHOUT_END && claim.waited > LONGEST_WAIT
}

/// Ends a wait that has lasted too long, with an error that says what was waited for.
fn refuse_endless(claim: &Claim, plan: &Plan, wait: &Wait) -> Result<()> {
    if !has_waited_enough(claim, plan) {
        return Ok(());
    }
    let (minutes, what) = (claim.waited.as_secs() / 60, &wait.waits_for);
    let message = format!("gave up after {minutes} minutes of waiting: {what}");
    Err(Error::new(Reason::ServerUnavailable, message))
}

/// Commits what a look has found out, and plans the next look.
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

/// Leaves an operation whose next look is due after `pause`.
fn later(pause: Duration) -> Next {
    Next::Leave(Left::Waiting(Instant::now() + pause))
}

/// Adds a pause to a wait without one, if too many of those came in a row. A provider that
/// always answers "at once" cannot keep a worker busy.
fn paced(claim: &Claim, wait: Wait) -> Wait {
    match wait.at_most.is_zero() && claim.instant_waits >= INSTANT_WAITS {
        true => Wait {
            at_most: PACE,
            ..wait
        },
        false => wait,
    }
}

/// Commits what a look has found out. If the wait has no pause, the next look follows at once.
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

/// Marks the stage as RUNNING. Returns whether the operation shall be cancelled.
async fn mark_running(context: &Context) -> Result<bool> {
    let claim = &context.claim;
    let mut tx = context.engine.store.begin().await?;
    let cancel_requested = tx.check_token(claim.id, claim.token).await?;
    tx.set_stage(claim.id, claim.position, StageState::Running)
        .await?;
    tx.commit().await?;
    Ok(cancel_requested)
}

/// Undoes the step at the present position, and commits that. Ends the operation when all steps
/// are undone.
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

/// Ends an operation whose steps are all undone.
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

/// Ends an operation without success.
async fn conclude(
    context: &Context,
    plan: &'static Plan,
    state: State,
    why: &Failure,
) -> Result<()> {
    let claim = &context.claim;
    let mut tx = checked(context, plan).await?;
    // Must come before `set_stage`, which resets the progress that `abandon` may read.
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

/// Reacts to a failure that retries cannot help: starts the undo, or ends the operation if its
/// plan has no undo.
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

/// Decides what follows a failed attempt, the `failures`-th in a row in this worker.
async fn failed(
    context: &Context,
    plan: &'static Plan,
    error: Error,
    (failures, panicked): (i32, bool),
) -> Next {
    let claim = &context.claim;
    if error.reason() == Reason::RecordUnreadable {
        // The step is not at fault. A process that can read the record will continue.
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
        // Another worker has claimed the operation: it decides now.
        let_go(&context.engine, claim.id, claim.token).await;
        return Next::Leave(Left::Anyhow);
    }
    let undoing = claim.state == State::Undoing;
    let verdict = match panicked {
        true => after_panic(claim.attempt, plan.tries),
        false
            if has_waited_enough(claim, plan) && error.reason() != Reason::MetadataUnavailable =>
        {
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
        // An undo is retried without a limit: giving up would leave the effects half undone.
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

/// After an error of a server that did not answer, delays the other operations that need it.
/// Each of their looks would occupy a worker for seconds.
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

/// Gives the claim back, and plans a retry after `delay`.
async fn put_off(context: &Context, delay: Duration, error: &Error) -> Next {
    release(context, delay, Some(&failure(error))).await
}

/// Gives the claim back. If that fails, the dispatcher repeats it: see `held`.
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

/// Tells the metadata that this worker has stopped, although its claim was already lost or
/// ended. Until then, or until the lease expires, nothing else begins on the instance.
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

/// A failpoint next to a commit, at which a test can kill the process.
fn kill_point(plan: &Plan, step: &Step, place: &str) {
    if cfg!(feature = "failpoints") {
        failpoint::hit(&format!("{}.{}.{place}", plan.kind, step.name));
    }
}
