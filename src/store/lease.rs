//! Leases on operations: who works on what, by the database's clock.

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

/// Seconds before an operation that this release cannot read is looked at again.
const UNREADABLE_PAUSE: f64 = 30.0;

/// An operation that a worker has claimed.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Its id.
    pub id: Uuid,
    /// Kind, which names the plan.
    pub kind: String,
    /// Version of the plan.
    pub plan_version: i32,
    /// Resource that it works on, by name.
    pub target: String,
    /// Resource that it works on, by unique id.
    pub target_uid: Uuid,
    /// The instance, for an operation on a child.
    pub parent_uid: Option<Uuid>,
    /// What the steps need to know.
    pub parameters: Value,
    /// Where it stands: RUNNING or UNDOING.
    pub state: State,
    /// Step that is next.
    pub position: i32,
    /// Which try of this step it is, from 1; those that a dead worker left do not count.
    pub attempt: i32,
    /// For how long this step has waited for something outside; zero before its first
    /// wait.
    pub waited: Duration,
    /// For how long it has pursued its goal: `waited` without the time in which it waited for
    /// its turn on the server.
    pub pursued: Duration,
    /// Waits without a pause in a row, by this worker.
    pub instant_waits: u32,
    /// Fencing token: no other claim has had it.
    pub token: i64,
    /// Why it is being undone, if it is.
    pub failure: Option<Failure>,
    /// Whether it is to be cancelled, as far as was known when the step began.
    pub cancel_requested: bool,
    /// The span of the call that it comes from, by W3C Trace Context.
    pub traceparent: Option<String>,
}

/// What a renewed lease answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease holds.
    Held,
    /// The lease holds, and the operation is to be cancelled.
    CancelRequested,
    /// The operation has ended under this very lease.
    Ended,
    /// Somebody else has it.
    Lost,
}

/// What a worker can work on.
#[derive(Clone, Debug)]
pub struct Capability<'a> {
    /// Unique id of the worker.
    pub worker: Uuid,
    /// Host whose servers it can reach.
    pub host: Uuid,
    /// Kinds and plan versions that it knows, as `kind@version`.
    pub plans: &'a [String],
    /// Length of the lease in seconds.
    pub lease_seconds: f64,
    /// Most operations at once on one instance and its databases.
    pub of_one_instance: i64,
}

/// When a worker can claim something next.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Seconds until the next operation is due, the lease of one runs out, or that of one
    /// that was given up; none when there is none.
    pub seconds: Option<f64>,
    /// Whether the worker has as much of an instance as it may: others of that instance are
    /// left out, and are due as soon as it lets one go.
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

/// Ends a claim for the time of a wait, if it is the newest.
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
    /// The time by the database's clock.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn now(&self) -> Result<DateTime<Utc>> {
        sqlx::query_scalar!(r#"select now() as "now!""#)
            .fetch_one(&self.pool)
            .named("lease.now")
            .await
    }

    /// Claims the operation that has been due the longest, if one is whose turn it is: see
    /// the view `operations_in_turn`. No operation begins on an instance while the worker
    /// of one that was given up may still be at work.
    ///
    /// Walks the operations of each place in the order in which they are due, whatever
    /// waits elsewhere. Of two that are found one is claimed; the other is locked for the
    /// moment of the statement.
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
                // Left to a process of the release that has written it.
                unknown(id, column);
                self.release_operation(id, token, UNREADABLE_PAUSE, None)
                    .await?;
                Ok(None)
            }
        }
    }

    /// Renews the lease of a claim.
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

    /// Records what a step waits for outside, and gives its claim back: it is looked at
    /// again after the pause, or at once when it is to be cancelled. No notification is
    /// sent: callers that wait for the operation keep waiting. Answers in how long the
    /// operation is due again.
    ///
    /// One statement, since many operations may wait for long.
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

    /// Puts off the operations on an instance's databases that no worker has, but for the one
    /// of these that has found out that the server does not answer: each look at it would
    /// take a worker for seconds. Other children need other servers. Those that are to be
    /// cancelled and are not being taken back yet go on: they need no server to be turned
    /// round. Locks in the order in which a deletion does, and passes over what is locked.
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

    /// When the worker can claim something next.
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
    /// Refuses when the claim is not the newest one. Held until the transaction ends. Answers
    /// whether the operation is to be cancelled.
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

    /// As [`Store::let_wait`], with what the step has found.
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

    /// Has the operations on an instance's children looked at now: its server is up.
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

    /// Moves an operation to another step, its first try still to come. Answers whether it
    /// is to be cancelled.
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

    /// Turns an operation round: from `position` on, its steps are taken back.
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

    /// Ends an operation with what it answers.
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

    /// Ends an operation without success.
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

/// A time that has passed by the database's clock, never less than nothing; just above
/// zero where a wait has begun.
fn waited(seconds: Option<f64>) -> Duration {
    let seconds = seconds.map(|seconds| seconds.max(0.001));
    Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or(Duration::MAX)
}

impl ClaimRow {
    /// Fails with the column that this release cannot read.
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
