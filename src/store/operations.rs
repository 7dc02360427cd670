//! Operations: what shall be done, and how far it is.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    Store, Tx,
    batch::Found,
    changes::CHANNEL,
    fault::Measured,
    pool::Pool,
    unreadable::{Readable, is_news, json},
};
use crate::domain::{
    Error, Reason, Result,
    name::{Id, OperationName},
    operation::{Failure, GivesWay, Operation, Response, SilentHost, Stage, StageState, State},
};

/// A row of `operations` with its stages.
struct Record {
    id: Uuid,
    project: String,
    target: String,
    verb: String,
    state: String,
    failures: i32,
    deaths: i32,
    cancellable: bool,
    cancel_requested: bool,
    last_error: Option<String>,
    failure: Option<String>,
    response_type: Option<String>,
    response: Option<Vec<u8>>,
    create_time: DateTime<Utc>,
    end_time: Option<DateTime<Utc>>,
    stages: Json<Vec<StageRecord>>,
    silent_host: Option<Json<SilentHost>>,
}

#[derive(Deserialize)]
struct StageRecord {
    name: String,
    title: String,
    state: String,
    start_time: Option<DateTime<Utc>>,
    end_time: Option<DateTime<Utc>>,
    progress_percent: i32,
    waits_for: String,
}

/// Which operations a deletion ends, of those on an instance and its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Operations on children that are being undone, and operations that wait for the children.
    Undoing,
    /// All operations on children.
    Children,
    /// All operations on the instance and its children.
    All,
}

/// The columns, shared by all queries below.
macro_rules! select_operations {
    ($($tail:literal)* $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Record,
            r#"select o.id, o.project, o.target, o.verb, o.state, o.failures, o.deaths,
                (o.end_time is null and (o.cancellable and o.state <> 'UNDOING'
                    or o.state = 'PENDING' and o.parameters ? 'former')) as "cancellable!",
                o.cancel_requested,
                o.last_error::text as "last_error", o.failure::text as "failure",
                o.response_type, o.response, o.create_time, o.end_time,
                (select coalesce(jsonb_agg(jsonb_build_object('name', s.name, 'title', s.title,
                    'state', s.state, 'start_time', s.start_time, 'end_time', s.end_time,
                    'progress_percent', s.progress_percent, 'waits_for', s.waits_for) order by s.position), '[]')
                    from operation_stages s where s.operation_id = o.id)
                    as "stages!: Json<Vec<StageRecord>>",
                (select to_jsonb(g) from hosts_gone g
                    where g.id = o.required_host and o.end_time is null)
                    as "silent_host: Json<crate::domain::operation::SilentHost>"
            from operations o "# $(+ $tail)*
            $(, $argument)*
        )
    };
}

mod list;

/// The record of a new operation.
#[derive(Clone, Debug)]
pub struct NewOperation {
    /// Id of the operation.
    pub id: Uuid,
    /// Project of the resource.
    pub project: Id,
    /// Kind, which names the plan.
    pub kind: &'static str,
    /// Version of the plan.
    pub plan_version: i32,
    /// The verb that clients see, in lower case.
    pub verb: &'static str,
    /// Name of the resource that it works on.
    pub target: String,
    /// Unique id of that resource.
    pub target_uid: Uuid,
    /// Unique id of the instance, if the resource is one of its children.
    pub parent_uid: Option<Uuid>,
    /// Principal that asked for it.
    pub principal: String,
    /// Parameters for the steps. They must not contain secrets.
    pub parameters: Value,
    /// The host that must execute it; none for any host.
    pub required_host: Option<Uuid>,
    /// Whether every step can be undone.
    pub cancellable: bool,
    /// Whether it begins only when no operation works on the children of the resource.
    pub after_children: bool,
    /// Whether another request for the same resource can replace it.
    pub gives_way: GivesWay,
    /// Span of the call that created it (W3C Trace Context).
    pub traceparent: Option<String>,
    /// Names and titles of the stages, in order.
    pub stages: Vec<(&'static str, &'static str)>,
}

impl Store {
    /// Reads an operation by its name.
    ///
    /// # Errors
    /// OPERATION_NOT_FOUND; METADATA_UNAVAILABLE.
    pub async fn operation(&self, name: &OperationName) -> Result<Operation> {
        let pool = self.pool.clone();
        let query = move |ids| by_id(pool.clone(), ids);
        let limit = self.pool.longest_call();
        let (tasks, reads) = (self.pool.tasks(), &self.operation_reads);
        let read = reads.read(tasks, name.operation, limit, query).await?;
        read.filter(|operation| operation.name.project == name.project)
            .ok_or_else(|| not_found(name))
    }

    /// Deletes the records of operations that ended more than `seconds` ago and that no recorded
    /// request refers to, at most a thousand.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn forget_operations(&self, seconds: f64) -> Result<u64> {
        let deleted = sqlx::query!(
            "delete from operations where id in (select id from operations o
                where end_time < now() - make_interval(secs => $1)
                and not exists (select from requests r where r.operation_id = o.id)
                limit 1000)",
            seconds,
        )
        .execute(&self.pool)
        .named("operations.forget_operations")
        .await?;
        Ok(deleted.rows_affected())
    }
}

impl Tx {
    /// Reads an operation by its id, even if it is hidden.
    ///
    /// # Errors
    /// OPERATION_NOT_FOUND; METADATA_UNAVAILABLE.
    pub async fn operation(&mut self, id: Uuid) -> Result<Operation> {
        let record = select_operations!("where o.id = $1", id)
            .fetch_optional(self.connection())
            .named("operations.operation")
            .await?;
        let missing = || Error::new(Reason::OperationNotFound, "the operation does not exist");
        record.ok_or_else(missing)?.operation()
    }

    /// Requests the cancellation of an operation. Returns `false` if it has ended, cannot be
    /// undone, is being undone, or belongs to a host that is gone. `host` is the caller's own
    /// host, which does not count as gone.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn request_cancel(&mut self, id: Uuid, host: Uuid) -> Result<bool> {
        let updated = sqlx::query!(
            "with cancelled as (
                update operations set cancel_requested = true, run_time = least(run_time, now())
                where id = $1 and end_time is null and cancellable and state <> 'UNDOING'
                and not exists (select from hosts_gone g where g.id = required_host and g.id <> $3)
                returning id)
             select pg_notify($2, id::text) from cancelled",
            id,
            CHANNEL,
            host,
        )
        .fetch_all(self.connection())
        .named("operations.request_cancel")
        .await?;
        Ok(!updated.is_empty())
    }

    /// Hides an operation that has ended. Returns `false` if it has not ended.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn hide_operation(&mut self, id: Uuid) -> Result<bool> {
        let updated = sqlx::query!(
            "update operations set hidden = true where id = $1 and end_time is not null",
            id,
        )
        .execute(self.connection())
        .named("operations.hide_operation")
        .await?;
        Ok(updated.rows_affected() == 1)
    }

    /// Ends operations on an instance and its children without success. The token is raised, so
    /// a worker that executes one of them can no longer commit. Until it has noticed that, or
    /// until its lease expires, nothing else begins on the instance: its effects outside the
    /// metadata check no token.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn give_up_family(&mut self, instance: Uuid, which: Family) -> Result<()> {
        let why = Failure {
            reason: Reason::InstanceDeleted.as_str().to_owned(),
            message: "the instance was deleted".to_owned(),
        };
        sqlx::query!(
            "with ended as (
                update operations set state = 'FAILED', end_time = clock_timestamp(),
                    token = token + 1, failure = $2
                where end_time is null and (parent_uid = $1 and ($4 or state = 'UNDOING')
                    or target_uid = $1 and ($5 or $6 and state = 'PENDING' and after_children))
                returning id, target_uid),
             stages as (
                update operation_stages s set state = 'FAILED', end_time = clock_timestamp()
                from ended where s.operation_id = ended.id and s.state = 'RUNNING'),
             unfinished as (
                update databases d set state = 'FAILED', revision = revision + 1,
                    update_time = now() from ended where d.uid = ended.target_uid),
             unfinished_streams as (
                update change_streams c set state = 'FAILED', revision = revision + 1,
                    update_time = now() from ended where c.uid = ended.target_uid)
             select pg_notify($3, id::text) from ended",
            instance,
            Json(why) as _,
            CHANNEL,
            which != Family::Undoing,
            which == Family::All,
            which == Family::Undoing,
        )
        .fetch_all(self.connection())
        .named("operations.give_up_family")
        .await?;
        Ok(())
    }

    /// Ends the recoveries of an instance's servers, and a start that waits, because a user asks
    /// for something else. As with [`Tx::give_up_family`], nothing else begins before the worker
    /// has noticed.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn give_up_start(&mut self, instance: Uuid) -> Result<()> {
        let why = Failure {
            reason: Reason::OperationCancelled.as_str().to_owned(),
            message: "another call on the instance has taken its place".to_owned(),
        };
        sqlx::query!(
            "with ended as (
                update operations set state = 'CANCELLED', end_time = clock_timestamp(),
                    token = token + 1, failure = $2
                where end_time is null and (target_uid = $1 or parent_uid = $1)
                    and (gives_way = 'ALWAYS'
                    or gives_way = 'WAITING' and waiting_since is not null)
                returning id),
             stages as (
                update operation_stages s set state = 'FAILED', end_time = clock_timestamp()
                from ended where s.operation_id = ended.id and s.state = 'RUNNING')
             select pg_notify($3, id::text) from ended",
            instance,
            Json(why) as _,
            CHANNEL,
        )
        .fetch_all(self.connection())
        .named("operations.give_up_start")
        .await?;
        Ok(())
    }

    /// Returns an error if a worker has begun to remove the instance with its data.
    ///
    /// # Errors
    /// RESOURCE_BUSY; METADATA_UNAVAILABLE.
    pub async fn refuse_removing(&mut self, instance: Uuid) -> Result<()> {
        let removing = sqlx::query!(
            r#"select 'projects/' || project || '/operations/' || id as "name!", target
             from operations where target_uid = $1 and end_time is null
                and kind in ('instance.remove', 'instance.purge') and state = 'RUNNING'"#,
            instance,
        )
        .fetch_optional(self.connection())
        .named("operations.refuse_removing")
        .await?;
        removing.map_or(Ok(()), |it| Err(self::busy(&it.target, Some(&it.name))))
    }

    /// Returns an error if an operation works on exactly this resource.
    ///
    /// # Errors
    /// RESOURCE_BUSY; METADATA_UNAVAILABLE.
    pub async fn refuse_busy(&mut self, uid: Uuid) -> Result<()> {
        let busy = sqlx::query!(
            r#"select 'projects/' || project || '/operations/' || id as "name!", target
             from operations where target_uid = $1 and end_time is null limit 1"#,
            uid,
        )
        .fetch_optional(self.connection())
        .named("operations.refuse_busy")
        .await?;
        busy.map_or(Ok(()), |it| Err(self::busy(&it.target, Some(&it.name))))
    }

    /// Records a new operation with its stages, and notifies the workers. A partial unique index
    /// allows one open operation per resource.
    ///
    /// # Errors
    /// RESOURCE_BUSY; METADATA_UNAVAILABLE.
    pub async fn insert_operation(&mut self, new: &NewOperation) -> Result<()> {
        let inserted = sqlx::query!(
            "insert into operations (id, project, kind, plan_version, verb, target, target_uid,
                parent_uid, principal, parameters, state, required_host, cancellable,
                after_children, gives_way, traceparent)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'PENDING', $11, $12, $13, $14, $15)
             on conflict (target_uid) where end_time is null do nothing",
            new.id,
            new.project.as_str(),
            new.kind,
            new.plan_version,
            new.verb,
            new.target,
            new.target_uid,
            new.parent_uid,
            new.principal,
            new.parameters,
            new.required_host,
            new.cancellable,
            new.after_children,
            new.gives_way.as_str(),
            new.traceparent,
        )
        .execute(self.connection())
        .named("operations.insert_operation")
        .await?;
        if inserted.rows_affected() == 0 {
            self.refuse_busy(new.target_uid).await?;
            // That operation has ended since the insert.
            return Err(busy(&new.target, None));
        }
        self.insert_stages(new.id, &new.stages).await?;
        self.notify_operation(new.id).await
    }

    /// Records an operation that has nothing to do and has ended already.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn insert_done_operation(
        &mut self,
        new: &NewOperation,
        response: &Response,
    ) -> Result<()> {
        sqlx::query!(
            "insert into operations (id, project, kind, plan_version, verb, target, target_uid,
                parent_uid, principal, parameters, state, response_type, response, end_time,
                cancellable)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'SUCCEEDED', $11, $12, now(),
                false)",
            new.id,
            new.project.as_str(),
            new.kind,
            new.plan_version,
            new.verb,
            new.target,
            new.target_uid,
            new.parent_uid,
            new.principal,
            new.parameters,
            response.type_url,
            response.value,
        )
        .execute(self.connection())
        .named("operations.insert_done_operation")
        .await?;
        Ok(())
    }

    /// Notifies all processes at commit that an operation has changed.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn notify_operation(&mut self, id: Uuid) -> Result<()> {
        sqlx::query!("select pg_notify($1, $2)", CHANNEL, id.to_string())
            .fetch_all(self.connection())
            .named("operations.notify_operation")
            .await?;
        Ok(())
    }
}

/// The error for a resource that another operation works on; `operation` is its name, if known.
fn busy(target: &str, operation: Option<&str>) -> Error {
    let message = format!("another operation works on `{target}`, or waits for its turn there");
    let message = match operation {
        Some(operation) => format!("{message}: {operation}"),
        None => message,
    };
    let error = Error::new(Reason::ResourceBusy, message).with_resource(target);
    match operation {
        Some(operation) => error.with_metadata("operation", operation),
        None => error,
    }
}

fn not_found(name: &OperationName) -> Error {
    Error::new(Reason::OperationNotFound, "the operation does not exist")
        .with_resource(name.to_string())
}

async fn by_id(pool: Pool, ids: Vec<Uuid>) -> Result<Found<Uuid, Operation>> {
    let records = select_operations!("where o.id = any($1) and not o.hidden", &ids)
        .fetch_all(&pool)
        .named("operations.by_id")
        .await?;
    let keyed = |record: Record| (record.id, record.operation());
    Ok(records.into_iter().map(keyed).collect())
}

impl Record {
    /// Reads the row. Values that this release does not know affect only this operation: an
    /// unknown stage has no state, and an operation with an unknown end counts as failed.
    fn operation(self) -> Result<Operation> {
        let state = State::parse(&self.state).ok();
        let (id, ended) = (self.id, self.end_time.is_some());
        let response = self.response_type.zip(self.response);
        let mut lost =
            (state.is_none() && response.is_none() && self.failure.is_none()).then_some("state");
        let mut read = |column, text: Option<String>| {
            let read: Readable<Option<_>> = text.map(|text| json(column, &text)).transpose();
            read.unwrap_or_else(|column| {
                lost = Some(column);
                None
            })
        };
        let failure = read("failure", self.failure);
        let last_error = read("last_error", self.last_error).filter(|_| !ended);
        let response = response.map(|(type_url, value)| Response { type_url, value });
        let deaths = deadly(self.deaths).filter(|_| !ended);
        let unknown = lost.map(|column| unknown(id, column));
        Ok(Operation {
            name: OperationName {
                project: Id::parse(&self.project, "project")?,
                operation: id,
            },
            target: self.target,
            verb: self.verb,
            state,
            create_time: self.create_time,
            end_time: self.end_time,
            stages: self.stages.0.into_iter().map(StageRecord::stage).collect(),
            cancellable: self.cancellable && state.is_some(),
            cancel_requested: self.cancel_requested,
            attempt: self.failures.saturating_add(1),
            last_error: deaths
                .or(last_error)
                .or_else(|| unknown.clone().filter(|_| !ended)),
            failure: failure.or_else(|| unknown.filter(|_| ended && response.is_none())),
            response,
            silent_host: self.silent_host.map(|host| host.0),
        })
    }
}

/// The `last_error` of a step that has ended several workers in a row, according to the counter
/// in the table `operations`. Such a step rests before the next attempt.
fn deadly(deaths: i32) -> Option<Failure> {
    (deaths >= 5).then(|| Failure {
        reason: Reason::Internal.as_str().to_owned(),
        message: format!(
            "processes that worked on this step have ended {deaths} times in a row; it is tried \
             again after a pause"
        ),
    })
}

/// The failure to show for a column that this release cannot read. Logged once per column.
pub(super) fn unknown(operation: Uuid, column: &'static str) -> Failure {
    if is_news(operation, column) {
        tracing::warn!(%operation, column, "an operation of another release cannot be read");
    }
    Failure {
        reason: Reason::RecordUnreadable.as_str().to_owned(),
        message: format!(
            "this release of Howdah cannot tell how the operation stands: its `{column}` was \
             written by another release"
        ),
    }
}

impl StageRecord {
    fn stage(self) -> Stage {
        Stage {
            name: self.name,
            title: self.title,
            state: StageState::parse(&self.state).ok(),
            start_time: self.start_time,
            end_time: self.end_time,
            progress_percent: self.progress_percent,
            waits_for: self.waits_for,
        }
    }
}
