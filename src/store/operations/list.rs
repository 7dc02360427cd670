//! Lists of operations.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    super::{
        Store,
        fault::Measured,
        listing::{Part, fitting},
    },
    Json, Record, StageRecord,
};
use crate::domain::{Error, Result, list::Position, name::Id, operation::Operation};

/// One operation of the next page, without its contents.
struct FoundOperation {
    id: Uuid,
    create_time: DateTime<Utc>,
    message_bytes: i64,
}

impl Store {
    /// A page of a project's operations, newest first: those after `after`, at most `limit`.
    /// `done` selects those that have ended or have not. The page ends before its message is
    /// larger than [`PAGE_BYTES`](crate::store::listing::PAGE_BYTES).
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn operations(
        &self,
        project: &Id,
        done: Option<bool>,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Part<Operation>> {
        let mut found = self.find_operations(project, done, after, limit).await?;
        let length = fitting(limit, found.iter().map(|found| found.message_bytes));
        let goes_on = found.len() > length;
        found.truncate(length);
        let ids: Vec<_> = found.iter().map(|found| found.id).collect();
        let records = select_operations!(
            "where o.id = any($1) order by o.create_time desc, o.id desc",
            &ids
        )
        .fetch_all(&self.pool)
        .named("operations.operations")
        .await?;
        let last = found.last().filter(|_| goes_on);
        Ok(Part {
            records: records
                .into_iter()
                .map(Record::operation)
                .collect::<Result<_>>()?,
            next: last.map(|last| Position {
                time: last.create_time,
                id: last.id.to_string(),
            }),
        })
    }

    /// Finds the operations of the next page and one more, with an upper bound on the bytes of
    /// each one's message. The database knows the length of a stored response without reading
    /// it.
    async fn find_operations(
        &self,
        project: &Id,
        done: Option<bool>,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Vec<FoundOperation>> {
        let time = after.map_or(DateTime::<Utc>::MAX_UTC, |position| position.time);
        let id = after.and_then(|position| Uuid::try_parse(&position.id).ok());
        let more = i64::try_from(limit).map_err(|_| Error::internal("page size"))? + 1;
        // Each condition is part of the query's text. A parameter would prevent the use of the
        // partial indexes.
        macro_rules! find {
            ($which:literal) => {
                sqlx::query_as!(
                    FoundOperation,
                    r#"select o.id, o.create_time, 640 + octet_length(o.target)
                        + coalesce(octet_length(o.response), 0)
                        + coalesce(octet_length(o.last_error::text), 0)
                        + coalesce(2 * octet_length(o.failure::text) + 640, 0)
                        + (select coalesce(sum(96 + octet_length(s.name) + octet_length(s.title)
                            + octet_length(s.waits_for)), 0) from operation_stages s
                            where s.operation_id = o.id) as "message_bytes!"
                    from operations o
                    where o.project = $1 and not o.hidden and (o.create_time, o.id) < ($2, $3) "#
                        + $which
                        + " order by o.create_time desc, o.id desc limit $4",
                    project.as_str(),
                    time,
                    id.unwrap_or(Uuid::max()),
                    more,
                )
                .fetch_all(&self.pool)
                .named("operations.find")
                .await
            };
        }
        match done {
            None => find!(""),
            Some(false) => find!("and o.end_time is null"),
            Some(true) => find!("and o.end_time is not null"),
        }
    }
}
