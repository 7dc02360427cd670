//! Changes as JSON records with column names. They are the output for programs, and the source
//! of the lines for people.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use crate::pb::v1::{
    Row, RowChange, Schema, Truncate, Value, change::Event, row_change::Kind, value,
};

/// What is known of the tables, by schema id, and of the transaction under way.
#[derive(Default)]
pub(super) struct Tables {
    schemas: HashMap<u32, Schema>,
    transaction: Option<(u32, String)>,
}

impl Tables {
    /// The record of an event. None for a row of a table whose schema never came,
    /// which only a broken server sends.
    pub(super) fn read(&mut self, event: &Event, ordinal: u64) -> Option<Json> {
        let mut record = match event {
            Event::Schema(schema) => {
                self.schemas.insert(schema.schema_id, schema.clone());
                json!({
                    "event": "schema",
                    "table": table(schema),
                    "columns": schema.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
                    "key": schema.key_columns,
                    "keySource": schema.key_source().as_str_name(),
                    "published": schema.published().as_str_name(),
                    "omitted": schema.omitted_columns,
                    "partition": schema.partition,
                })
            }
            Event::Row(row) => self.row(row)?,
            Event::Truncate(truncate) => self.truncate(truncate),
            Event::Message(message) => json!({
                "event": "message",
                "prefix": message.prefix,
                "content": String::from_utf8_lossy(&message.content),
                "lsn": lsn(message.lsn),
                "transactional": message.transactional,
            }),
            Event::Begin(begin) => {
                self.transaction = Some((begin.xid, lsn(begin.commit_lsn)));
                json!({ "event": "begin", "commitTime": time(begin.commit_time.as_ref()) })
            }
            Event::Commit(commit) => json!({
                "event": "commit",
                "endLsn": lsn(commit.end_lsn),
                "commitTime": time(commit.commit_time.as_ref()),
            }),
            Event::Marker(marker) => json!({
                "event": "marker",
                "kind": marker.kind().as_str_name(),
                "table": format!("{}.{}", identifier(&marker.namespace), identifier(&marker.table)),
                "partitions": marker.partitions,
                "afterLsn": lsn(marker.after_lsn),
                "beforeLsn": lsn(marker.before_lsn),
                "incompleteXids": marker.incomplete_xids,
                "detail": marker.detail,
            }),
            // This command never asks for fragments.
            Event::Fragment(_) => return None,
        };
        if let (Some((xid, commit_lsn)), Some(record)) = (&self.transaction, record.as_object_mut())
            && !matches!(event, Event::Schema(_))
        {
            record.insert("xid".into(), json!(xid));
            record.insert("commitLsn".into(), json!(commit_lsn));
        }
        if let (1.., Some(record)) = (ordinal, record.as_object_mut()) {
            record.insert("ordinal".into(), json!(ordinal));
        }
        if matches!(event, Event::Commit(_)) {
            self.transaction = None;
        }
        Some(record)
    }

    fn row(&self, row: &RowChange) -> Option<Json> {
        let schema = self.schemas.get(&row.schema_id)?;
        let event = match row.kind() {
            Kind::Insert => "insert",
            Kind::Update => "update",
            Kind::Delete => "delete",
            Kind::Unspecified => return None,
        };
        let mut record = json!({ "event": event, "table": table(schema) });
        let fields = record.as_object_mut()?;
        if !row.element_id.is_empty() {
            fields.insert("elementId".into(), json!(row.element_id));
        }
        for (name, image) in [("after", &row.after), ("before", &row.before)] {
            if let Some(image) = image {
                let (values, unchanged) = columns(schema, image);
                fields.insert(name.into(), Json::Object(values));
                if !unchanged.is_empty() {
                    fields.insert("unchanged".into(), json!(unchanged));
                }
            }
        }
        Some(record)
    }

    fn truncate(&self, truncate: &Truncate) -> Json {
        let known = truncate.schema_ids.iter();
        let tables: Vec<String> = known
            .filter_map(|id| self.schemas.get(id).map(table))
            .collect();
        json!({
            "event": "truncate",
            "tables": tables,
            "cascade": truncate.cascade,
            "restartIdentity": truncate.restart_identity,
        })
    }
}

/// Values by column name, and the columns that the update has not changed. Columns outside of
/// the replica identity are left out.
fn columns<'a>(schema: &'a Schema, row: &Row) -> (Map<String, Json>, Vec<&'a str>) {
    let mut values = Map::new();
    let mut unchanged = Vec::new();
    for (column, value) in schema.columns.iter().zip(&row.values) {
        match value {
            Value {
                value: Some(value::Value::Unchanged(_)),
            } => unchanged.push(&*column.name),
            Value {
                value: Some(value::Value::Absent(_)) | None,
            } => {}
            Value { value: Some(value) } => {
                values.insert(column.name.clone(), plain(value));
            }
        }
    }
    (values, unchanged)
}

fn plain(value: &value::Value) -> Json {
    match value {
        value::Value::Text(text) => json!(text),
        value::Value::Binary(bytes) => json!(hex(bytes)),
        value::Value::Null(_) | value::Value::Unchanged(_) | value::Value::Absent(_) => Json::Null,
    }
}

/// Bytes in PostgreSQL's hex format of bytea.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("\\x"), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

fn table(schema: &Schema) -> String {
    format!(
        "{}.{}",
        identifier(&schema.namespace),
        identifier(&schema.table)
    )
}

/// A name in SQL, quoted if necessary.
fn identifier(name: &str) -> String {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let bare = name.chars().all(inner) && !name.starts_with(|c: char| c.is_ascii_digit());
    if bare && !name.is_empty() {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// An LSN in PostgreSQL's format.
pub(super) fn lsn(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

fn time(time: Option<&prost_types::Timestamp>) -> Json {
    time.map_or(Json::Null, |time| json!(time.to_string()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pb::v1::{Begin, schema::Column};

    pub(in crate::cli::streams) fn known() -> Tables {
        let column = |name: &str| Column {
            name: name.into(),
            ..Column::default()
        };
        let mut tables = Tables::default();
        let schema = Schema {
            schema_id: 7,
            namespace: "public".into(),
            table: "Odd.items".into(),
            columns: ["id", "name", "big"].map(column).to_vec(),
            ..Schema::default()
        };
        tables.read(&Event::Schema(schema), 0).unwrap();
        let begin = Begin {
            xid: 741,
            commit_lsn: 0x1_0000_00AB,
            commit_time: None,
        };
        tables.read(&Event::Begin(begin), 0).unwrap();
        tables
    }

    pub(in crate::cli::streams) fn update() -> Event {
        let row = |values: Vec<value::Value>| Row {
            values: values
                .into_iter()
                .map(|v| Value { value: Some(v) })
                .collect(),
        };
        let text = |text: &str| value::Value::Text(text.into());
        let absent = value::Value::Absent(value::Absent {});
        Event::Row(RowChange {
            kind: Kind::Update.into(),
            schema_id: 7,
            after: Some(row(vec![
                text("1"),
                value::Value::Null(value::Null {}),
                value::Value::Unchanged(value::Unchanged {}),
            ])),
            before: Some(row(vec![text("it's\n1"), absent.clone(), absent])),
            element_id: "items:1".into(),
        })
    }

    #[test]
    fn rows_get_their_column_names() {
        let record = known().read(&update(), 2).unwrap();
        let expected = json!({
            "event": "update",
            "table": "public.\"Odd.items\"",
            "elementId": "items:1",
            "after": { "id": "1", "name": null },
            "unchanged": ["big"],
            "before": { "id": "it's\n1" },
            "xid": 741,
            "commitLsn": "1/AB",
            "ordinal": 2,
        });
        assert_eq!(record, expected);
    }

    #[test]
    fn a_row_without_a_schema_is_no_record() {
        assert_eq!(Tables::default().read(&update(), 1), None);
    }

    #[test]
    fn a_truncate_names_its_tables() {
        let truncate = Truncate {
            schema_ids: vec![7],
            cascade: true,
            restart_identity: false,
        };
        let record = known().read(&Event::Truncate(truncate), 1).unwrap();
        assert_eq!(record["tables"], json!(["public.\"Odd.items\""]));
    }
}
