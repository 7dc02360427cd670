//! Leases on operations: which worker executes which operation, by the database's clock.
//!
//! A claim writes the worker, a new token and the end of the lease into the operation's row.
//! Whoever commits for the operation must present the newest token, so a worker that has lost
//! its claim cannot write. Times come from the database, because the clocks of processes may
//! differ.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    Store, Tx,
    changes::CHANNEL,
    fault::Measured,
    operations::unknown,
    unreadable::{Readable, json},
};
use crate::domain::{
    Error, Reason, Result,
    operation::{Failure, Response, State},
    provider::Wait,
};

/// Seconds until an operation that this release cannot read is due again.
const UNREADABLE_PAUSE: f64 = 30.0;

/// An operation that a worker has claimed.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Id of the operation.
    pub id: Uuid,
    /// Kind of the operation. It names the plan.
    pub kind: String,
    /// Version of the plan.
    pub plan_version: i32,
    /// Name of the resource that the operation works on.
    pub target: String,
    /// Unique id of that resource.
    pub target_uid: Uuid,
    /// Unique id of the instance, if the resource is one of its children.
    pub parent_uid: Option<Uuid>,
    /// Parameters for the steps.
    pub parameters: Value,
    /// RUNNING or UNDOING.
    pub state: State,
    /// Position of the next step in the plan.
    pub position: i32,
    /// Number of this attempt at the step, from 1. Attempts whose worker died do not count.
    pub attempt: i32,
    /// How long this step has waited for something outside; zero before its first wait.
    pub waited: Duration,
    /// How long the step has pursued its goal: `waited` without the time in which another
    /// process had the lock of the server.
    pub pursued: Duration,
    /// Waits without a pause in a row, in this worker.
    pub instant_waits: u32,
    /// Fencing token of this claim. Each claim on the operation has a greater one than the last.
    pub token: i64,
    /// Why the operation is being undone; none if it is not.
    pub failure: Option<Failure>,
    /// Whether the operation shall be cancelled, as known when the step began.
    pub cancel_requested: bool,
    /// Span of the call that created the operation (W3C Trace Context).
    pub traceparent: Option<String>,
}

/// Result of renewing a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease is valid.
    Held,
    /// The lease is valid, and the operation shall be cancelled.
    CancelRequested,
    /// This claim has ended the operation.
    Ended,
    /// The claim is not valid any more: another worker has the operation, or it was given back.
    Lost,
}

/// What a worker can execute.
#[derive(Clone, Debug)]
pub struct Capability<'a> {
    /// Unique id of the worker.
    pub worker: Uuid,
    /// Host whose servers the worker can reach.
    pub host: Uuid,
    /// Plans that the worker knows, as `kind@version`.
    pub plans: &'a [String],
    /// Length of the lease in seconds.
    pub lease_seconds: f64,
    /// Most operations that the process may execute at once on one instance and its databases.
    pub of_one_instance: i64,
}

/// When a worker can claim something again.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Seconds until an operation becomes due, or until a lease ends that holds one back. None
    /// if there is nothing to wait for.
    pub seconds: Option<f64>,
    /// Whether the process has the most operations that it may have on some instance. Other
    /// operations of that instance become due as soon as it ends one of them.
    pub full: bool,
}

struct ClaimRow {
    id: Uuid,
    kind: String,
    plan_version: i32,
    target: String,
    target_uid: Uuid,
    parent_uid: Option<Uuid>,
    parameters: Value,
    state: String,
    position: i32,
    failures: i32,
    waited: Option<f64>,
    pursued: Option<f64>,
    token: i64,
    failure: Option<String>,
    cancel_requested: bool,
    traceparent: Option<String>,
}

/// Ends a claim for the time of a wait, if its token is the newest.
macro_rules! let_wait {
    ($claim:expr, $wait:expr) => {
        sqlx::query!(
            r#"with held as (
                update operations set lease_until = null, worker = null, last_error = null,
                    deaths = 0, waiting_since = coalesce(waiting_since, now()),
                    pursued_since = coalesce(pursued_since, case when $7 then now() end),
                    run_time = case when cancel_requested and cancellable and state <> 'UNDOING'
                        then now() else now() + make_interval(secs => $5) end
                where id = $1 and token = $2 and end_time is null returning id, run_time),
             shown as (
                update operation_stages s set progress_percent = $6, waits_for = $4 from held
                where s.operation_id = held.id and s.position = $3
                and (s.progress_percent, s.waits_for) is distinct from ($6, $4))
             select greatest(extract(epoch from run_time - now()), 0)::float8 as "seconds!" from held"#,
            $claim.id,
            $claim.token,
            $claim.position,
            &$wait.waits_for,
            $wait.at_most.as_secs_f64(),
            $wait.percent.clamp(0, 99),
            $wait.pursued,
        )
    };
}

impl Store {
    /// The present time of the database.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn now(&self) -> Result<DateTime<Utc>> {
        sqlx::query_scalar!(r#"select now() as "now!""#)
            .fetch_one(&self.pool)
            .named("lease.now")
            .await
    }

    /// Claims the operation that has been due the longest and that nothing holds back: see the
    /// view `operations_in_turn`. While the worker of an operation that was given up may still
    /// act, no operation begins on the same instance.
    ///
    /// The query walks the index of due operations twice, for this host and for those that any
    /// host can execute, so its cost does not depend on what waits for other hosts. It may find
    /// one operation in each; it claims one, and locks the other until the statement ends.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn claim_operation(&self, by: &Capability<'_>) -> Result<Option<Claim>> {
        let row = sqlx::query_as!(
            ClaimRow,
            r#"update operations o set worker = $1, token = token + 1,
                deaths = deaths + case when worker is null then 0 else 1 end,
                death_time = case when worker is null then death_time else now() end,
                lease_until = now() + make_interval(secs => $4),
                state = case when state = 'PENDING' then 'RUNNING' else state end
             where id = (select next.id
                from unnest(array['00000000-0000-0000-0000-000000000000', $2::uuid]) as p (place)
                cross join lateral (select d.id, d.run_time from operations_in_turn d
                    where d.place = p.place and d.run_time <= now()
                    and (d.free_time is null or d.free_time < now())
                    and d.state in ('PENDING', 'RUNNING', 'UNDOING')
                    and d.kind || '@' || d.plan_version = any($3)
                    and d.instance_uid <> all (array(select h.instance_uid from operations_held h
                        where h.worker = $1 group by h.instance_uid having count(*) >= $5))
                    order by d.run_time for update skip locked limit 1) next
                order by next.run_time limit 1)
             returning id, kind, plan_version, target, target_uid, parent_uid, parameters, state, position,
                failures, extract(epoch from now() - waiting_since)::float8 as waited,
                extract(epoch from now() - pursued_since)::float8 as pursued,
                token, failure::text as failure, cancel_requested, traceparent"#,
            by.worker,
            by.host,
            by.plans,
            by.lease_seconds,
            by.of_one_instance,
        )
        .fetch_optional(&self.pool)
        .named("lease.claim_operation")
        .await?;
        let Some(row) = row else { return Ok(None) };
        let (id, token) = (row.id, row.token);
        match row.claim() {
            Ok(claim) => Ok(Some(claim)),
            Err(column) => {
                // A process of the release that has written the record will execute the operation.
                unknown(id, column);
                self.release_operation(id, token, UNREADABLE_PAUSE, None)
                    .await?;
                Ok(None)
            }
        }
    }

    /// Renews the lease of a claim. The lease lasts `seconds` from now.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn renew_lease(&self, id: Uuid, token: i64, seconds: f64) -> Result<Renewal> {
        let row = sqlx::query!(
            r#"update operations set lease_until = case when end_time is null
                then now() + make_interval(secs => $3) end
             where id = $1 and token = $2 and (worker is not null or end_time is not null)
             returning cancel_requested, end_time is not null as "ended!""#,
            id,
            token,
            seconds,
        )
        .fetch_optional(&self.pool)
        .named("lease.renew_lease")
        .await?;
        Ok(match row {
            None => Renewal::Lost,
            Some(row) if row.ended => Renewal::Ended,
            Some(row) if row.cancel_requested => Renewal::CancelRequested,
            Some(_) => Renewal::Held,
        })
    }

    /// Records what a step waits for, and gives the claim back. The operation is due again after
    /// the pause, or at once if it shall be cancelled. Returns the time until then. Sends no
    /// notification, because callers that wait for the operation have nothing to learn.
    ///
    /// A single statement, because many operations may wait for a long time.
    ///
    /// # Errors
    /// RESOURCE_BUSY when another worker has taken over; METADATA_UNAVAILABLE.
    pub async fn let_wait(&self, claim: &Claim, wait: &Wait) -> Result<Duration> {
        let held = let_wait!(claim, wait)
            .fetch_optional(&self.pool)
            .named("lease.let_wait")
            .await?;
        held.map(|row| Duration::from_secs_f64(row.seconds))
            .ok_or_else(taken_over)
    }

    /// Delays the operations on an instance's databases because its server does not answer: each
    /// of them would occupy a worker for seconds. Not delayed are operations that a worker has,
    /// the operation `but` that has found this out, operations on other children, which need
    /// other servers, and operations that shall be cancelled, because starting an undo needs no
    /// server. Locks the rows in the order of their ids, like a deletion, and skips locked rows.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn rest_children(&self, instance: Uuid, but: Uuid, seconds: f64) -> Result<()> {
        sqlx::query!(
            "with resting as (select o.id from operations o
                where o.parent_uid = $1 and o.id <> $2 and o.end_time is null
                and o.worker is null and (not o.cancel_requested or o.state = 'UNDOING')
                and exists (select from databases d where d.uid = o.target_uid)
                and exists (select from operations f join databases d on d.uid = f.target_uid
                    where f.id = $2)
                order by o.id for no key update skip locked)
             update operations o
                set run_time = greatest(run_time, now() + make_interval(secs => $3))
             from resting r where o.id = r.id",
            instance,
            but,
            seconds,
        )
        .execute(&self.pool)
        .named("lease.rest_children")
        .await?;
        Ok(())
    }

    /// When the worker can claim something again.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn next_due(&self, by: &Capability<'_>) -> Result<Due> {
        sqlx::query_as!(
            Due,
            r#"with full_ones as materialized (select h.instance_uid from operations_held h
                where h.worker = $3 group by h.instance_uid having count(*) >= $4),
             places as (select place from unnest(array['00000000-0000-0000-0000-000000000000',
                $1::uuid]) as p (place))
             select extract(epoch from least(
                (select min(next.run_time) from places p
                    cross join lateral (select d.run_time from operations_in_turn d
                        where d.place = p.place and d.worker is null
                        and d.state in ('PENDING', 'RUNNING', 'UNDOING')
                        and d.kind || '@' || d.plan_version = any($2)
                        and d.instance_uid <> all (array(select instance_uid from full_ones))
                        order by d.run_time limit 1) next),
                (select min(greatest(d.run_time, d.free_time)) from operations_in_turn d
                    where d.worker is not null and d.place in (select place from places)
                    and d.state in ('PENDING', 'RUNNING', 'UNDOING')
                    and d.kind || '@' || d.plan_version = any($2)
                    and d.instance_uid <> all (array(select instance_uid from full_ones))),
                (select min(lease_until) from operations_given_up)) - now())::float8 as seconds,
                exists (select from full_ones) as "full!""#,
            by.host,
            by.plans,
            by.worker,
            by.of_one_instance,
        )
        .fetch_one(&self.pool)
        .named("lease.next_due")
        .await
    }
}

impl Tx {
    /// Checks that the claim is the newest, and locks the operation until the transaction ends.
    /// Returns whether the operation shall be cancelled.
    ///
    /// # Errors
    /// RESOURCE_BUSY when another worker has taken over; METADATA_UNAVAILABLE.
    pub async fn check_token(&mut self, id: Uuid, token: i64) -> Result<bool> {
        let held = sqlx::query_scalar!(
            "select cancel_requested from operations
             where id = $1 and token = $2 and worker is not null and end_time is null
             for no key update",
            id,
            token,
        )
        .fetch_optional(self.connection())
        .named("lease.check_token")
        .await?;
        held.ok_or_else(taken_over)
    }

    /// Like [`Store::let_wait`], in one transaction with what the step has found out.
    ///
    /// # Errors
    /// RESOURCE_BUSY when another worker has taken over; METADATA_UNAVAILABLE.
    pub async fn let_wait(&mut self, claim: &Claim, wait: &Wait) -> Result<Duration> {
        let held = let_wait!(claim, wait)
            .fetch_optional(self.connection())
            .named("lease.let_wait")
            .await?;
        held.map(|row| Duration::from_secs_f64(row.seconds))
            .ok_or_else(taken_over)
    }

    /// Makes the operations on an instance's children due now, because its server is up.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn wake_children(&mut self, instance: Uuid) -> Result<()> {
        sqlx::query!(
            "with resting as (select id from operations
                where parent_uid = $1 and end_time is null and worker is null
                and run_time > now() order by id for no key update skip locked),
             woken as (update operations o set run_time = now()
                from resting r where o.id = r.id returning o.id)
             select pg_notify($2, id::text) from woken limit 1",
            instance,
            CHANNEL,
        )
        .fetch_all(self.connection())
        .named("lease.wake_children")
        .await?;
        Ok(())
    }

    /// Moves an operation to another step, with all counters reset. Returns whether the
    /// operation shall be cancelled.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn move_operation(&mut self, id: Uuid, position: i32) -> Result<bool> {
        let cancel_requested = sqlx::query_scalar!(
            "update operations set position = $2, failures = 0, deaths = 0, last_error = null,
                waiting_since = null, pursued_since = null
             where id = $1 returning cancel_requested",
            id,
            position,
        )
        .fetch_one(self.connection())
        .named("lease.move_operation")
        .await?;
        self.notify_operation(id).await?;
        Ok(cancel_requested)
    }

    /// Starts to undo an operation, from the step at `position` back to the first one.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn undo_operation(&mut self, id: Uuid, position: i32, why: &Failure) -> Result<()> {
        sqlx::query!(
            "update operations set state = 'UNDOING', position = $2, failures = 0, deaths = 0,
                failure = $3, waiting_since = null, pursued_since = null
             where id = $1",
            id,
            position,
            Json(why) as _,
        )
        .execute(self.connection())
        .named("lease.undo_operation")
        .await?;
        self.notify_operation(id).await
    }

    /// Ends an operation with success, and stores its response.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn finish_operation(&mut self, id: Uuid, response: &Response) -> Result<()> {
        sqlx::query!(
            "update operations set state = 'SUCCEEDED', end_time = clock_timestamp(),
                lease_until = null, worker = null, last_error = null,
                response_type = $2, response = $3 where id = $1",
            id,
            response.type_url,
            response.value,
        )
        .execute(self.connection())
        .named("lease.finish_operation")
        .await?;
        self.notify_operation(id).await
    }

    /// Ends an operation without success, as FAILED or CANCELLED.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn fail_operation(&mut self, id: Uuid, state: State, why: &Failure) -> Result<()> {
        sqlx::query!(
            "update operations set state = $2, end_time = clock_timestamp(), lease_until = null,
                worker = null, failure = $3 where id = $1",
            id,
            state.as_str(),
            Json(why) as _,
        )
        .execute(self.connection())
        .named("lease.fail_operation")
        .await?;
        self.notify_operation(id).await
    }
}

fn taken_over() -> Error {
    let message = "another worker has taken the operation over";
    Error::new(Reason::ResourceBusy, message)
}

/// Converts seconds of the database's clock. Never negative, because that clock may step. At
/// least 1 ms if a wait has begun, because zero means that it has not.
fn waited(seconds: Option<f64>) -> Duration {
    let seconds = seconds.map(|seconds| seconds.max(0.001));
    Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or(Duration::MAX)
}

impl ClaimRow {
    /// Reads the row. The error is the column that this release cannot read.
    fn claim(self) -> Readable<Claim> {
        let failure = self.failure.map(|text| json("failure", &text));
        Ok(Claim {
            id: self.id,
            kind: self.kind,
            plan_version: self.plan_version,
            target: self.target,
            target_uid: self.target_uid,
            parent_uid: self.parent_uid,
            parameters: self.parameters,
            state: State::parse(&self.state).map_err(|_| "state")?,
            position: self.position,
            attempt: self.failures.saturating_add(1),
            waited: waited(self.waited),
            pursued: waited(self.pursued),
            instant_waits: 0,
            token: self.token,
            failure: failure.transpose()?,
            cancel_requested: self.cancel_requested,
            traceparent: self.traceparent,
        })
    }
}
