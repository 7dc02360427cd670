//! The audit: who has changed something, and who has read a secret.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Store, Tx,
    fault::Measured,
    listing::{self, Parent, Part, Slice},
};
use crate::domain::{
    Result,
    audit::{AuditRecord, Effect, Outcome},
    name::{Id, ProjectName},
};

/// A new audit record.
#[derive(Clone, Debug)]
pub struct NewAuditRecord<'a> {
    /// Project of the resource.
    pub project: &'a Id,
    /// Kind of effect.
    pub effect: Effect,
    /// Principal that did it.
    pub principal: String,
    /// Address of the peer.
    pub peer: &'a str,
    /// Method that was called.
    pub method: &'a str,
    /// Name of the resource.
    pub resource: &'a str,
    /// The id that the caller gave to the request.
    pub request_id: Option<Uuid>,
    /// Name of the operation that was accepted.
    pub operation: Option<String>,
    /// Id of the trace that the call belongs to.
    pub trace_id: &'a str,
    /// The request as text, bounded and without secrets.
    pub request: &'a str,
    /// Result of the call.
    pub outcome: Outcome,
}

struct Row {
    uid: Uuid,
    create_time: DateTime<Utc>,
    count: i64,
    last_time: DateTime<Utc>,
    effect: String,
    principal: String,
    peer: String,
    method: String,
    resource: String,
    request_id: String,
    operation: String,
    trace_id: String,
    request: String,
    result: String,
}

/// The statement, for use in a transaction and without one.
macro_rules! insert {
    ($executor:expr, $uid:expr, $new:expr) => {
        sqlx::query!(
            "insert into audit_records as r (uid, project, effect, principal, peer, method,
                resource, request_id, operation, trace_id, request, result)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             on conflict (uid) do update
                set count = r.count + 1, last_time = greatest(r.last_time, now())",
            $uid,
            $new.project.as_str(),
            $new.effect.as_str(),
            $new.principal,
            $new.peer,
            $new.method,
            $new.resource,
            $new.request_id.map(|id| id.to_string()).unwrap_or_default(),
            $new.operation.as_deref().unwrap_or_default(),
            $new.trace_id,
            $new.request,
            $new.outcome.as_str(),
        )
        .execute($executor)
        .named("audit.insert_record")
        .await
    };
}

impl Tx {
    /// Records the effect of this transaction, so that both are committed or neither.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn insert_audit_record(&mut self, uid: Uuid, new: &NewAuditRecord<'_>) -> Result<()> {
        insert!(self.connection(), uid, new).map(drop)
    }
}

impl Store {
    /// Records an effect that is about to happen. If a record with that unique id exists, its
    /// counter is raised.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn count_audit_record(&self, uid: Uuid, new: &NewAuditRecord<'_>) -> Result<()> {
        insert!(&self.pool, uid, new).map(drop)
    }

    /// Reads a part of a project's records.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn audit_records(
        &self,
        project: &ProjectName,
        slice: Slice<'_>,
    ) -> Result<Part<AuditRecord>> {
        let parent = Parent::Project(project.project.as_str());
        let table = &listing::AUDIT_RECORDS;
        let found = listing::find(&self.pool, "audit.find_records", table, parent, slice).await?;
        let rows = sqlx::query_as!(
            Row,
            "select uid, create_time, count, last_time, effect, principal, peer, method, resource,
                request_id, operation, trace_id, request, result from audit_records where uid = any($1)",
            &found.records,
        )
        .fetch_all(&self.pool)
        .named("audit.records")
        .await?;
        let records = rows.into_iter().map(Row::record).collect();
        Ok(found.of(records, |record: &AuditRecord| record.uid))
    }

    /// Deletes records older than `seconds`, at most a thousand.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn forget_audit_records(&self, seconds: f64) -> Result<u64> {
        let deleted = sqlx::query!(
            "delete from audit_records where uid in (select uid from audit_records
                where create_time < now() - make_interval(secs => $1)
                order by create_time limit 1000)",
            seconds,
        )
        .execute(&self.pool)
        .named("audit.forget_records")
        .await?;
        Ok(deleted.rows_affected())
    }
}

impl Row {
    fn record(self) -> AuditRecord {
        AuditRecord {
            uid: self.uid,
            create_time: self.create_time,
            count: self.count,
            last_time: self.last_time,
            effect: self.effect,
            principal: self.principal,
            peer: self.peer,
            method: self.method,
            resource: self.resource,
            request_id: self.request_id,
            operation: self.operation,
            trace_id: self.trace_id,
            request: self.request,
            result: self.result,
        }
    }
}
