//! Lists of instances, databases, change streams and audit records: filters become SQL
//! conditions.
//!
//! Most lists are read in two steps. [`find`] builds a statement for the filter, and finds the
//! ids of the next records. A query that was checked at compile time then reads those records. A
//! filter examines at most [`SCANNED`] records, even if few of them match. What matches by then
//! is the page, and the next page begins after the last record that was examined. The first page
//! of a plain list of instances is read by one statement: see [`Slice::is_plain_beginning`].
//!
//! A page ends before its message is larger than [`PAGE_BYTES`]. A column holds the size of each
//! record's message, so records beyond the page need not be read.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::{fault::Measured, pool::Pool};
use crate::domain::{
    Error, Result,
    filter::{Comparison, Filter, Operator, Value},
    list::{Order, Position, SortBy},
};

/// Most records that a filter examines for one page. That takes about 10 ms.
pub const SCANNED: usize = 10_000;

/// Most bytes of a page's message. gRPC clients accept 4 MiB by default.
pub const PAGE_BYTES: i64 = 3 * 1024 * 1024;

/// How many of the records with these sizes fit into a page: at most `limit`, and at least one,
/// because the list would never advance otherwise.
pub(super) fn fitting(limit: usize, bytes: impl IntoIterator<Item = i64>) -> usize {
    let sums = bytes.into_iter().scan(0_i64, |sum, bytes| {
        *sum = sum.saturating_add(bytes);
        Some(*sum)
    });
    let fit = sums.take_while(|sum| *sum <= PAGE_BYTES).count();
    fit.clamp(1, limit.max(1))
}

/// Describes which part of a list to read.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    /// Order of the list.
    pub order: Order,
    /// Position after which the part begins; none for the beginning of the list.
    pub after: Option<&'a Position>,
    /// Most records to return.
    pub limit: usize,
    /// Filter. SQL may return a few records that do not match, so the caller filters again.
    pub filter: &'a Filter,
    /// Whether to include deleted records.
    pub show_deleted: bool,
}

impl Slice<'_> {
    /// Whether this is the beginning of a list without a filter and without deleted records.
    pub(super) fn is_plain_beginning(&self) -> bool {
        self.filter.is_empty() && self.after.is_none() && !self.show_deleted
    }

    /// The limit plus one, to find out whether there is another page.
    pub(super) fn one_more(&self) -> Result<i64> {
        let limit = i64::try_from(self.limit).map_err(|_| Error::internal("page size"))?;
        Ok(limit.saturating_add(1))
    }
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Part<T> {
    /// The records, in order.
    pub records: Vec<T>,
    /// Position after which the next part begins; none at the end of the list.
    pub next: Option<Position>,
}

impl Part<Uuid> {
    /// Replaces each uid by its record. Records that have been deleted meanwhile are left out.
    pub(super) fn of<T>(self, records: Vec<T>, uid: impl Fn(&T) -> Uuid) -> Part<T> {
        let named = records.into_iter().map(|record| (uid(&record), record));
        let mut records: HashMap<Uuid, T> = named.collect();
        let found = self.records.iter();
        Part {
            records: found.filter_map(|uid| records.remove(uid)).collect(),
            next: self.next,
        }
    }
}

/// The resource whose children are listed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parent<'a> {
    Project(&'a str),
    Instance(Uuid),
}

/// A table, as filters see it. Its rows have the alias `w`.
pub(super) struct Table {
    name: &'static str,
    /// Condition on the rows, with alias `p`, that are not deleted.
    live: &'static str,
    /// Names and columns of the fields, and whether every release can read them in every row.
    fields: &'static [(&'static str, &'static str, bool)],
    /// Conditions that hold for each row that this release cannot read, and for few others. Each
    /// names a table and the column by which its rows belong to a record. The partial index
    /// `TABLE_irregular` has the same condition, and is almost empty.
    irregular: &'static [(&'static str, &'static str, &'static str)],
}

pub(super) const INSTANCES: Table = Table {
    name: "instances",
    live: " and p.delete_time is null",
    fields: &[
        ("instance_id", "w.id", true),
        ("state", "w.state", false),
        ("version", "w.wanted_version", false),
        ("display_name", "w.display_name", false),
        ("ephemeral", "w.ephemeral", false),
        ("create_time", "w.create_time", true),
    ],
    irregular: &[
        (
            "instances",
            "uid",
            r#"id !~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'
            or state <> all ('{CREATING,READY,STOPPED,STARTING,STOPPING,DELETING,DELETED,FAILED}')
            or wanted_version !~ '^([1-9][0-9]{1,3}(\.[0-9]{1,4})?)?$'
            or jsonb_typeof(labels) <> 'object'
            or labels @? 'strict $.* ? (@.type() <> "string")'
            or jsonb_typeof(annotations) <> 'object'
            or annotations @? 'strict $.* ? (@.type() <> "string")'
            or jsonb_typeof(parameters) <> 'object'
            or parameters @? 'strict $.* ? (@.type() <> "string")'
            or jsonb_typeof(conditions) <> 'array'"#,
        ),
        (
            "servers",
            "instance_uid",
            r"version !~ '^[1-9][0-9]{1,3}\.[0-9]{1,4}$'
            or role <> all ('{ACTIVE,SUCCESSOR,RETIRED}')
            or wanted <> all ('{RUNNING,STOPPED,GONE}')
            or system_identifier !~ '^[0-9]{1,19}$'
            or address is not null and (jsonb_typeof(address -> 'host') = 'string'
                and jsonb_typeof(address -> 'port') = 'number'
                and address ->> 'port' ~ '^([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3})$'
                and coalesce(jsonb_typeof(address -> 'socket_directory'), 'null')
                    in ('string', 'null')
                and coalesce(jsonb_typeof(address -> 'tls'), 'boolean') = 'boolean'
            ) is not true",
        ),
    ],
};

pub(super) const DATABASES: Table = Table {
    name: "databases",
    live: "",
    fields: &[
        ("database_id", "w.id", true),
        ("state", "w.state", false),
        ("postgresql_name", "w.postgresql_name", false),
        ("owner", "w.owner", false),
        ("display_name", "w.display_name", false),
        ("create_time", "w.create_time", true),
    ],
    irregular: &[(
        "databases",
        "uid",
        r#"id !~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'
        or state <> all ('{CREATING,READY,DELETING,FAILED}')
        or jsonb_typeof(labels) <> 'object'
        or labels @? 'strict $.* ? (@.type() <> "string")'
        or jsonb_typeof(annotations) <> 'object'
        or annotations @? 'strict $.* ? (@.type() <> "string")'
        or octet_length(postgresql_name) not between 1 and 63
        or octet_length(owner) not between 1 and 63"#,
    )],
};

pub(super) const CHANGE_STREAMS: Table = Table {
    name: "change_streams",
    live: "",
    fields: &[
        ("change_stream_id", "w.id", true),
        ("state", "w.state", false),
        ("database", "w.database", false),
        ("create_time", "w.create_time", true),
    ],
    irregular: &[(
        "change_streams",
        "uid",
        r#"id !~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'
        or state <> all ('{CREATING,READY,DELETING,FAILED,LOST}')
        or publish <> all ('{ALL,INSERTS}')
        or on_change <> all ('{END,FOLLOW}')
        or jsonb_typeof(labels) <> 'object'
        or labels @? 'strict $.* ? (@.type() <> "string")'
        or jsonb_typeof(tables) <> 'array'
        or tables @? 'strict $[*] ? (@.type() <> "string")'
        or jsonb_typeof(publications) <> 'array'
        or publications @? 'strict $[*] ? (@.type() <> "string")'
        or jsonb_typeof(conditions) <> 'array'
        or octet_length(database) not between 1 and 63
        or octet_length(publication) > 63
        or system_identifier !~ '^[0-9]{1,19}$'"#,
    )],
};

/// Every release can show what another one has written, so no row is irregular.
pub(super) const AUDIT_RECORDS: Table = Table {
    name: "audit_records",
    live: "",
    fields: &[
        ("effect", "w.effect", true),
        ("principal", "w.principal", true),
        ("method", "w.method", true),
        ("resource", "w.resource", true),
        ("request_id", "w.request_id", true),
        ("operation", "w.operation", true),
        ("trace_id", "w.trace_id", true),
        ("result", "w.result", true),
        ("create_time", "w.create_time", true),
        ("last_time", "w.last_time", true),
    ],
    irregular: &[],
};

/// The fields that filters of instances, databases, change streams and audit records can use.
#[cfg(test)]
pub(crate) fn fields() -> [Vec<&'static str>; 4] {
    let names = |table: &Table| table.fields.iter().map(|(name, ..)| *name).collect();
    [
        names(&INSTANCES),
        names(&DATABASES),
        names(&CHANGE_STREAMS),
        names(&AUDIT_RECORDS),
    ]
}

/// Finds the unique ids of a slice's records, in order.
pub(super) async fn find(
    pool: &Pool,
    operation: &'static str,
    table: &Table,
    parent: Parent<'_>,
    slice: Slice<'_>,
) -> Result<Part<Uuid>> {
    let mut query = statement(table, parent, slice)?;
    // Filters make many different statements. If they were kept prepared, they would displace
    // the statements that are always needed.
    let persistent = slice.filter.is_empty();
    let found: Vec<(Option<Uuid>, String, DateTime<Utc>, i32)> = query
        .build_query_as()
        .persistent(persistent)
        .fetch_all(pool)
        .named(operation)
        .await?;
    let mut part = Part {
        records: Vec::with_capacity(found.len()),
        next: None,
    };
    let records = found.iter().filter(|(uid, ..)| uid.is_some());
    let length = fitting(slice.limit, records.map(|(.., bytes)| i64::from(*bytes)));
    let mut last = None;
    for (uid, id, time, _) in found {
        let position = Position { time, id };
        match uid {
            Some(_) if part.records.len() == length => {
                part.next = last.take();
                break;
            }
            Some(uid) => {
                part.records.push(uid);
                last = Some(position);
            }
            // The last record that was examined.
            None => part.next = Some(position),
        }
    }
    Ok(part)
}

/// Builds the statement of a slice. It returns one record more than requested, to show that
/// there is another page. If a filter matches fewer of the examined records, the last examined
/// record follows without an id. All of that comes from one snapshot, so no record is skipped
/// that is inserted or deleted meanwhile.
fn statement(
    table: &Table,
    parent: Parent<'_>,
    slice: Slice<'_>,
) -> Result<QueryBuilder<Postgres>> {
    let more = slice.one_more()?;
    let time = match slice.order.by {
        SortBy::Id => "'epoch'::timestamptz",
        SortBy::CreateTime => "p.create_time",
        SortBy::UpdateTime => "p.update_time",
    };
    let mut query = QueryBuilder::new("");
    if slice.filter.is_empty() {
        query.push(format_args!(
            "select p.uid, p.id, {time} as at, p.message_bytes"
        ));
        rows(&mut query, table, parent, slice);
        query.push(" limit ").push_bind(more);
        return Ok(query);
    }
    query.push("with found as (select w.uid, w.id, w.at, w.message_bytes from (");
    query.push(format_args!("select p.*, {time} as at"));
    rows(&mut query, table, parent, slice);
    query.push(format_args!(" limit {SCANNED}) w where true"));
    for comparison in slice.filter.comparisons() {
        query.push(" and ");
        condition(&mut query, table, comparison)?;
    }
    query.push(" limit ").push_bind(more);
    query.push(
        ") select uid, id, at, message_bytes, false as ends from found
         union all select null, e.id, e.at, 0, true from (",
    );
    query.push(format_args!("select p.id, {time} as at"));
    rows(&mut query, table, parent, slice);
    query.push(format_args!(
        " offset {} limit 1) e where (select count(*) from found) < ",
        SCANNED - 1
    ));
    query.push_bind(more);
    let direction = direction(slice.order);
    query.push(format_args!(
        " order by ends, at {direction}, id {direction}"
    ));
    Ok(query)
}

const fn direction(order: Order) -> &'static str {
    if order.descending { "desc" } else { "asc" }
}

/// The rows of a slice before its filter, in order. Each order has an index.
fn rows(query: &mut QueryBuilder<Postgres>, table: &Table, parent: Parent<'_>, slice: Slice<'_>) {
    query.push(format_args!(" from {} p where ", table.name));
    match parent {
        Parent::Project(id) => query.push("p.project = ").push_bind(id.to_owned()),
        Parent::Instance(uid) => query.push("p.instance_uid = ").push_bind(uid),
    };
    if !slice.show_deleted {
        query.push(table.live);
    }
    let column = match slice.order.by {
        SortBy::Id => None,
        SortBy::CreateTime => Some("p.create_time"),
        SortBy::UpdateTime => Some("p.update_time"),
    };
    let direction = direction(slice.order);
    if let Some(position) = slice.after {
        let beyond = if slice.order.descending { "<" } else { ">" };
        let id = position.id.clone();
        match column {
            None => query
                .push(format_args!(" and p.id {beyond} "))
                .push_bind(id),
            Some(column) => query
                .push(format_args!(" and ({column}, p.id) {beyond} ("))
                .push_bind(position.time)
                .push(", ")
                .push_bind(id)
                .push(")"),
        };
    }
    query.push(" order by ");
    if let Some(column) = column {
        query.push(format_args!("{column} {direction}, "));
    }
    query.push(format_args!("p.id {direction}"));
}

/// A comparison as an SQL condition. It holds for each row for which the comparison holds.
fn condition(
    query: &mut QueryBuilder<Postgres>,
    table: &Table,
    comparison: &Comparison,
) -> Result<()> {
    let (operand, exact) = storable(&comparison.operand);
    let sign = match (comparison.operator, exact) {
        // No column can hold this value.
        (Operator::Equal | Operator::Has, false) => return push(query, "false"),
        (Operator::NotEqual, false) => return push(query, "true"),
        (Operator::Equal, true) => "=",
        (Operator::NotEqual, true) => "is distinct from",
        (Operator::Less, true) => "<",
        (Operator::LessOrEqual, _) | (Operator::Less, false) => "<=",
        (Operator::Greater, _) | (Operator::GreaterOrEqual, false) => ">",
        (Operator::GreaterOrEqual, true) => ">=",
        (Operator::Has, true) => ",",
    };
    let mut fields = table.fields.iter();
    let field = fields.find(|(name, ..)| *name == comparison.field);
    let readable = field.is_some_and(|(.., readable)| *readable);
    let has = comparison.operator == Operator::Has;
    query.push(if has { "(strpos(" } else { "(" });
    match (field, comparison.field.strip_prefix("labels.")) {
        (Some((_, column, _)), _) => query.push(*column),
        (None, Some(key)) => query
            .push("(w.labels ->> ")
            .push_bind(key.to_owned())
            .push(")"),
        (None, None) => return Err(Error::internal("field of a filter without a column")),
    };
    match operand {
        // Text is compared by its bytes, independent of the database's collation.
        Value::Text(text) => query
            .push(format_args!(r#" collate "C" {sign} "#))
            .push_bind(text),
        Value::Bool(value) => query.push(format_args!(" {sign} ")).push_bind(value),
        Value::Time(time) => query.push(format_args!(" {sign} ")).push_bind(time),
        Value::Missing => return Err(Error::internal("comparison without an operand")),
    };
    if has {
        query.push(") > 0");
    }
    if comparison.operator == Operator::NotEqual && !readable {
        for (table, belongs_by, condition) in table.irregular {
            query.push(format_args!(
                " or exists (select from {table} r where r.{belongs_by} = w.uid and ({condition}))"
            ));
        }
    }
    push(query, ")")
}

#[expect(clippy::unnecessary_wraps, reason = "it ends functions that may fail")]
fn push(query: &mut QueryBuilder<Postgres>, sql: &str) -> Result<()> {
    query.push(sql);
    Ok(())
}

/// The greatest value that a column can store and that is not greater than the operand, and
/// whether it equals the operand. Text cannot contain NUL, and times have microseconds.
fn storable(operand: &Value) -> (Value, bool) {
    match operand {
        Value::Text(text) => {
            let stored = text.split('\0').next().unwrap_or_default();
            (Value::Text(stored.to_owned()), stored.len() == text.len())
        }
        Value::Time(time) => {
            // In a leap second the nanoseconds are a billion or more.
            let nanoseconds = time.timestamp_subsec_nanos();
            let kept = (nanoseconds / 1000).min(999_999) * 1000;
            let stored = DateTime::from_timestamp(time.timestamp(), kept).unwrap_or(*time);
            (Value::Time(stored), kept == nanoseconds)
        }
        Value::Bool(_) | Value::Missing => (operand.clone(), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The text of all migrations, in order.
    fn migrations() -> String {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let files = std::fs::read_dir(directory).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        let read = |file| words(&std::fs::read_to_string(file).unwrap());
        files.into_iter().map(read).collect::<Vec<_>>().join(" ")
    }

    /// The planner uses a partial index only if the query has the same condition.
    #[test]
    fn indexes_find_what_may_be_unreadable() {
        let migrations = migrations();
        for (table, belongs_by, condition) in [INSTANCES, DATABASES, CHANGE_STREAMS]
            .iter()
            .flat_map(|table| table.irregular)
        {
            let head = format!("create index {table}_irregular on {table} ({belongs_by}) where ");
            let (_, newest) = migrations.rsplit_once(&head).unwrap();
            let wanted = words(condition);
            assert!(newest.starts_with(&format!("{wanted};")), "{head}{wanted}");
        }
    }

    #[test]
    fn a_page_holds_what_fits_and_at_least_one() {
        const MIB: i64 = 1024 * 1024;
        assert_eq!(fitting(50, []), 1);
        assert_eq!(fitting(50, [9 * MIB, 1]), 1);
        assert_eq!(fitting(50, [MIB, MIB, MIB, 1]), 3);
        assert_eq!(fitting(50, [MIB, MIB, MIB - 1, 1, 1]), 4);
        assert_eq!(fitting(2, [1, 1, 1]), 2);
        assert_eq!(fitting(50, [i64::MAX, i64::MAX]), 1);
    }

    #[test]
    fn operands_become_what_columns_can_hold() {
        let text = |text: &str| Value::Text(text.to_owned());
        assert_eq!(storable(&text("a")), (text("a"), true));
        assert_eq!(storable(&text("a\0b")), (text("a"), false));
        let time = |text: &str| Value::Time(text.parse().unwrap());
        for (operand, stored, exact) in [
            (
                "2026-01-01T00:00:00.000001Z",
                "2026-01-01T00:00:00.000001Z",
                true,
            ),
            (
                "2026-01-01T00:00:00.0000019Z",
                "2026-01-01T00:00:00.000001Z",
                false,
            ),
            (
                "1969-12-31T23:59:59.9999999Z",
                "1969-12-31T23:59:59.999999Z",
                false,
            ),
            ("2026-06-30T23:59:60Z", "2026-06-30T23:59:59.999999Z", false),
        ] {
            assert_eq!(storable(&time(operand)), (time(stored), exact), "{operand}");
        }
    }
}
