//! Rows and events as messages.

use prost_types::Timestamp;

use super::{plain, relation::Known};
use crate::{
    pb::v1::{Begin, Commit, LogicalMessage, Row, RowChange, Value, row_change, value},
    pg::pgoutput::{self, Old, Tuple},
};

/// Seconds from the Unix epoch to PostgreSQL's, 2000-01-01 UTC.
const POSTGRES_EPOCH: i64 = 946_684_800;

/// A time in microseconds since PostgreSQL's epoch.
pub(super) fn time(microseconds: i64) -> Timestamp {
    let nanos = microseconds.rem_euclid(1_000_000) * 1000;
    Timestamp {
        seconds: microseconds.div_euclid(1_000_000) + POSTGRES_EPOCH,
        nanos: i32::try_from(nanos).unwrap_or_default(),
    }
}

/// An inserted row.
pub(super) fn insert(table: &Known, new: &Tuple<'_>) -> RowChange {
    change(
        table,
        row_change::Kind::Insert,
        Some(row(new, |_, value| present(value))),
        None,
    )
}

/// A changed row.
pub(super) fn update(table: &Known, old: Option<&Old<'_>>, new: &Tuple<'_>) -> RowChange {
    let before = old.map(|old| before(table, old));
    let mut after = row(new, |_, value| present(value));
    if let Some(Old::Full(_)) = old {
        fill_unchanged(&mut after, before.as_ref());
    }
    change(table, row_change::Kind::Update, Some(after), before)
}

/// A row that is gone.
pub(super) fn delete(table: &Known, old: &Old<'_>) -> RowChange {
    change(
        table,
        row_change::Kind::Delete,
        None,
        Some(before(table, old)),
    )
}

fn change(
    table: &Known,
    kind: row_change::Kind,
    after: Option<Row>,
    before: Option<Row>,
) -> RowChange {
    let element_id = element_id(table, after.as_ref().or(before.as_ref()));
    RowChange {
        kind: kind.into(),
        schema_id: table.schema.schema_id,
        after,
        before,
        element_id,
    }
}

/// A key tuple pads the other columns with NULL, which they need not be.
fn before(table: &Known, old: &Old<'_>) -> Row {
    match old {
        Old::Full(tuple) => row(tuple, |_, value| present(value)),
        Old::Key(tuple) => row(tuple, |at, value| match table.schema.columns.get(at) {
            Some(column) if column.identity => present(value),
            _ => value::Value::Absent(value::Absent {}),
        }),
    }
}

/// REPLICA IDENTITY FULL gives what the update did not touch in the old image.
fn fill_unchanged(after: &mut Row, before: Option<&Row>) {
    let Some(before) = before else { return };
    for (new, old) in after.values.iter_mut().zip(&before.values) {
        if matches!(new.value, Some(value::Value::Unchanged(_))) {
            new.value.clone_from(&old.value);
        }
    }
}

fn row(tuple: &Tuple<'_>, of: impl Fn(usize, pgoutput::Value<'_>) -> value::Value) -> Row {
    let value = |(at, value)| Value {
        value: Some(of(at, value)),
    };
    Row {
        values: tuple.values().enumerate().map(value).collect(),
    }
}

fn present(value: pgoutput::Value<'_>) -> value::Value {
    match value {
        pgoutput::Value::Null => value::Value::Null(value::Null {}),
        pgoutput::Value::Unchanged => value::Value::Unchanged(value::Unchanged {}),
        // A SQL_ASCII database may hold anything.
        pgoutput::Value::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => value::Value::Text(text.to_owned()),
            Err(_) => value::Value::Binary(bytes.to_vec()),
        },
        pgoutput::Value::Binary(bytes) => value::Value::Binary(bytes.to_vec()),
    }
}

/// `users:12345`, `order_items:1001_5`; empty without a key, or where a value of it
/// is NULL, not known, or binary and of no type with a plain text.
fn element_id(table: &Known, row: Option<&Row>) -> String {
    let mut id = String::new();
    let Some(row) = row.filter(|_| !table.key.is_empty()) else {
        return id;
    };
    for (nth, at) in table.key.iter().enumerate() {
        if nth == 0 {
            id.push_str(&table.schema.table);
        }
        id.push(if nth == 0 { ':' } else { '_' });
        let value = row.values.get(*at).and_then(|value| value.value.as_ref());
        let column = table.schema.columns.get(*at);
        let written = match (value, column) {
            (Some(value::Value::Text(text)), _) => {
                id.push_str(text);
                true
            }
            (Some(value::Value::Binary(bytes)), Some(column)) => {
                plain::write(&mut id, column.type_oid, bytes)
            }
            _ => false,
        };
        if !written {
            return String::new();
        }
    }
    id
}

/// The begin of a transaction.
pub(super) fn begin(begin: &pgoutput::Begin) -> Begin {
    Begin {
        xid: begin.xid,
        commit_lsn: begin.commit_lsn.get(),
        commit_time: Some(time(begin.commit_time)),
    }
}

/// The end of a transaction.
pub(super) fn commit(xid: u32, commit: &pgoutput::Commit, origin: String) -> Commit {
    Commit {
        xid,
        commit_lsn: commit.commit_lsn.get(),
        end_lsn: commit.end_lsn.get(),
        commit_time: Some(time(commit.commit_time)),
        origin,
    }
}

/// A message of an application.
pub(super) fn message(message: &pgoutput::LogicalMessage<'_>) -> LogicalMessage {
    LogicalMessage {
        prefix: message.prefix.to_owned(),
        content: message.content.to_vec(),
        lsn: message.lsn.get(),
        transactional: message.transactional,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::v1::{Schema, schema};

    fn table() -> Known {
        let column = |type_oid| schema::Column {
            type_oid,
            ..schema::Column::default()
        };
        Known {
            schema: Schema {
                schema_id: 1,
                table: "t".into(),
                columns: vec![column(23), column(20), column(25)],
                ..Schema::default()
            },
            key: vec![1, 0],
        }
    }

    fn text(text: &str) -> Value {
        Value {
            value: Some(value::Value::Text(text.into())),
        }
    }

    #[test]
    fn element_ids_follow_the_key() {
        let row = Row {
            values: vec![text("5"), text("1001"), text("x")],
        };
        assert_eq!(element_id(&table(), Some(&row)), "t:1001_5");
        let binary = |bytes: &[u8]| Value {
            value: Some(value::Value::Binary(bytes.to_vec())),
        };
        let row_in_binary = Row {
            values: vec![binary(&5i32.to_be_bytes()), binary(&1001i64.to_be_bytes())],
        };
        assert_eq!(element_id(&table(), Some(&row_in_binary)), "t:1001_5");
        let keyless = Known {
            key: vec![],
            ..table()
        };
        assert_eq!(element_id(&keyless, Some(&row)), "");
    }

    #[test]
    fn unchanged_values_come_from_a_full_old_image() {
        let unchanged = Value {
            value: Some(value::Value::Unchanged(value::Unchanged {})),
        };
        let mut after = Row {
            values: vec![text("1"), unchanged],
        };
        let before = Row {
            values: vec![text("0"), text("large")],
        };
        fill_unchanged(&mut after, Some(&before));
        assert_eq!(after.values, vec![text("1"), text("large")]);
    }

    #[test]
    fn times_before_the_epoch_are_whole() {
        assert_eq!(
            time(0),
            Timestamp {
                seconds: 946_684_800,
                nanos: 0
            }
        );
        assert_eq!(
            time(-1),
            Timestamp {
                seconds: 946_684_799,
                nanos: 999_999_000
            }
        );
    }
}
