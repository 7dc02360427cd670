//! Rows and events as encoded messages.
//!
//! A row is written from the bytes of the log straight into the bytes of the batch: there are
//! many, and a message with a string for each value costs more than all the rest.

use prost_types::Timestamp;
use smallvec::SmallVec;

use super::{element, relation::Known, wire};
use crate::{
    pb::v1::{Begin, Commit, LogicalMessage, row_change::Kind},
    pg::pgoutput::{self, Old, Tuple, Value},
};

/// Seconds from the Unix epoch to PostgreSQL's, 2000-01-01 UTC.
const POSTGRES_EPOCH: i64 = 946_684_800;

/// Field numbers of the messages in `change.proto`.
mod field {
    pub(super) const CHANGE_ROW: u32 = 2;
    pub(super) const ROW_CHANGE_KIND: u32 = 1;
    pub(super) const ROW_CHANGE_SCHEMA_ID: u32 = 2;
    pub(super) const ROW_CHANGE_AFTER: u32 = 3;
    pub(super) const ROW_CHANGE_BEFORE: u32 = 4;
    pub(super) const ROW_CHANGE_ELEMENT_ID: u32 = 5;
    pub(super) const ROW_VALUES: u32 = 1;
    pub(super) const VALUE_TEXT: u32 = 1;
    pub(super) const VALUE_BINARY: u32 = 2;
    pub(super) const VALUE_NULL: u32 = 3;
    pub(super) const VALUE_UNCHANGED: u32 = 4;
    pub(super) const VALUE_ABSENT: u32 = 5;
}

/// The values of most rows, without an allocation.
type Values<'a> = SmallVec<[Image<'a>; 32]>;

/// What is known of a value.
#[derive(Clone, Copy)]
enum Image<'a> {
    Logged(Value<'a>),
    /// Of an old row, not part of the replica identity.
    Absent,
}

impl Image<'_> {
    /// The bytes of the message `Value`.
    fn len(self) -> usize {
        match self {
            Self::Logged(Value::Text(bytes) | Value::Binary(bytes)) => wire::field_len(bytes.len()),
            Self::Logged(Value::Null | Value::Unchanged) | Self::Absent => wire::field_len(0),
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        match self {
            // A SQL_ASCII database may hold anything.
            Self::Logged(Value::Text(bytes)) if std::str::from_utf8(bytes).is_ok() => {
                wire::bytes(out, field::VALUE_TEXT, bytes);
            }
            Self::Logged(Value::Text(bytes) | Value::Binary(bytes)) => {
                wire::bytes(out, field::VALUE_BINARY, bytes);
            }
            Self::Logged(Value::Null) => wire::begin(out, field::VALUE_NULL, 0),
            Self::Logged(Value::Unchanged) => wire::begin(out, field::VALUE_UNCHANGED, 0),
            Self::Absent => wire::begin(out, field::VALUE_ABSENT, 0),
        }
    }
}

/// A change of a row, ready to be written.
pub(super) struct RowChange<'a> {
    kind: Kind,
    schema_id: u32,
    after: Option<Values<'a>>,
    before: Option<Values<'a>>,
    element_id: &'a str,
    /// The length of the message `RowChange`.
    len: usize,
}

impl<'a> RowChange<'a> {
    /// An inserted row. The element id is written to `id`.
    pub(super) fn insert(table: &Known, new: &Tuple<'a>, id: &'a mut String) -> Self {
        Self::new(table, Kind::Insert, Some(values(table, new)), None, id)
    }

    /// A changed row.
    pub(super) fn update(
        table: &Known,
        old: Option<&Old<'a>>,
        new: &Tuple<'a>,
        id: &'a mut String,
    ) -> Self {
        let before = old.map(|old| before(table, old));
        let mut after = values(table, new);
        if let (Some(Old::Full(_)), Some(before)) = (old, &before) {
            fill_unchanged(&mut after, before);
        }
        Self::new(table, Kind::Update, Some(after), before, id)
    }

    /// A row that is gone.
    pub(super) fn delete(table: &Known, old: &Old<'a>, id: &'a mut String) -> Self {
        Self::new(table, Kind::Delete, None, Some(before(table, old)), id)
    }

    fn new(
        table: &Known,
        kind: Kind,
        after: Option<Values<'a>>,
        before: Option<Values<'a>>,
        id: &'a mut String,
    ) -> Self {
        let keyed = after.as_ref().or(before.as_ref());
        let key = table.key.iter().map(|at| {
            let value = match keyed.and_then(|row| row.get(*at)) {
                Some(Image::Logged(value)) => *value,
                _ => Value::Null,
            };
            let column = table.schema.columns.get(*at);
            (value, column.map_or(0, |column| column.type_oid))
        });
        element::write(id, &table.prefix, key);
        let mut change = Self {
            kind,
            schema_id: table.schema.schema_id,
            after,
            before,
            element_id: id,
            len: 0,
        };
        let row =
            |row: &Option<Values<'_>>| row.as_ref().map_or(0, |row| wire::field_len(len(row)));
        change.len = wire::number_len(change.kind as u64)
            + wire::number_len(u64::from(change.schema_id))
            + row(&change.after)
            + row(&change.before)
            + match change.element_id.len() {
                0 => 0,
                len => wire::field_len(len),
            };
        change
    }

    /// The length of the message `Change` that [`RowChange::write`] writes.
    pub(super) fn change_len(&self) -> usize {
        wire::field_len(self.len)
    }

    /// Writes a `Change`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        wire::begin(out, field::CHANGE_ROW, self.len);
        wire::number(out, field::ROW_CHANGE_KIND, self.kind as u64);
        wire::number(out, field::ROW_CHANGE_SCHEMA_ID, u64::from(self.schema_id));
        let rows = [
            (field::ROW_CHANGE_AFTER, &self.after),
            (field::ROW_CHANGE_BEFORE, &self.before),
        ];
        for (number, row) in rows {
            if let Some(row) = row {
                wire::begin(out, number, len(row));
                for value in row {
                    wire::begin(out, field::ROW_VALUES, value.len());
                    value.write(out);
                }
            }
        }
        if !self.element_id.is_empty() {
            wire::bytes(
                out,
                field::ROW_CHANGE_ELEMENT_ID,
                self.element_id.as_bytes(),
            );
        }
    }
}

/// The bytes of the message `Row`.
fn len(row: &[Image<'_>]) -> usize {
    row.iter().map(|value| wire::field_len(value.len())).sum()
}

/// The values of a row in the order of the schema.
fn values<'a>(table: &Known, tuple: &Tuple<'a>) -> Values<'a> {
    let logged: Values<'a> = tuple.values().map(Image::Logged).collect();
    let Some(order) = &table.order else {
        return logged;
    };
    // The schema and the row are of one relation message: each position is there.
    let value = |at: &usize| logged.get(*at).copied().unwrap_or(Image::Absent);
    order.iter().map(value).collect()
}

/// A key tuple pads the other columns with NULL, which they need not be.
fn before<'a>(table: &Known, old: &Old<'a>) -> Values<'a> {
    match old {
        Old::Full(tuple) => values(table, tuple),
        Old::Key(tuple) => {
            let mut key = values(table, tuple);
            for (value, column) in key.iter_mut().zip(&table.schema.columns) {
                if !column.identity {
                    *value = Image::Absent;
                }
            }
            key
        }
    }
}

/// REPLICA IDENTITY FULL gives what the update did not touch in the old image.
fn fill_unchanged<'a>(after: &mut [Image<'a>], before: &[Image<'a>]) {
    for (new, old) in after.iter_mut().zip(before) {
        if matches!(new, Image::Logged(Value::Unchanged)) {
            *new = *old;
        }
    }
}

/// A time in microseconds since PostgreSQL's epoch.
pub(super) fn time(microseconds: i64) -> Timestamp {
    let nanos = microseconds.rem_euclid(1_000_000) * 1000;
    Timestamp {
        seconds: microseconds.div_euclid(1_000_000) + POSTGRES_EPOCH,
        nanos: i32::try_from(nanos).unwrap_or_default(),
    }
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
        prefix: message.prefix.to_string(),
        content: message.content.to_vec(),
        lsn: message.lsn.get(),
        transactional: message.transactional,
    }
}

#[cfg(test)]
mod tests;
