//! A subscriber that checks each batch against what the protocol promises, and tells
//! what it got as text.

use std::collections::{HashMap, VecDeque};

use howdah::pb::v1::{
    Change, ChangeBatch, Marker, Row, RowChange, Schema, Value,
    change::Event,
    row_change::Kind,
    schema::{PublishedEvents, ReplicaIdentity},
    value,
};
use prost::Message as _;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::support::howdah::LIMIT;

/// An event with its ordinal; 0 for one without.
#[derive(Clone, Debug)]
pub struct Numbered {
    pub event: Option<Event>,
    pub ordinal: u64,
}

pub struct Subscriber {
    stream: Streaming<ChangeBatch>,
    pub schemas: HashMap<u32, Schema>,
    /// Changes that were received and not yet asked for.
    pub changes: VecDeque<Numbered>,
    /// Markers that were received and not yet asked for. They are not among the changes: when
    /// they come depends on when the catalogs were looked at.
    pub markers: VecDeque<Marker>,
    /// The last batch, without its changes.
    pub last: ChangeBatch,
    /// Size of the largest batch.
    pub largest: usize,
    // Commit LSN of the transaction that is open, and the last ordinal in it.
    open: Option<(u64, u64)>,
    committed: u64,
}

impl Subscriber {
    pub fn new(stream: Streaming<ChangeBatch>) -> Self {
        Self {
            stream,
            schemas: HashMap::new(),
            changes: VecDeque::new(),
            markers: VecDeque::new(),
            last: ChangeBatch::default(),
            largest: 0,
            open: None,
            committed: 0,
        }
    }

    /// The next batch; its changes are queued.
    pub async fn batch(&mut self) -> Result<ChangeBatch, Status> {
        let next = timeout(LIMIT, self.stream.message()).await;
        let batch = next.expect("a batch in time")?.expect("no silent end");
        self.accept(&batch);
        Ok(batch)
    }

    /// Waits until the slot is made.
    pub async fn ready(&mut self) {
        while !self.batch().await.unwrap().waiting_for.is_empty() {}
        assert!(self.changes.is_empty(), "the first batch is empty");
    }

    /// The next marker as text.
    pub async fn marker(&mut self) -> String {
        loop {
            if let Some(marker) = self.markers.pop_front() {
                assert!(marker.after_lsn <= marker.before_lsn, "{marker:?}");
                let kind = marker.kind().as_str_name().to_lowercase();
                let (table, partitions) = (marker.table, marker.partitions.join(","));
                return format!("{kind} {table}({partitions})");
            }
            self.batch().await.unwrap();
        }
    }

    /// Waits for a marker of this kind.
    pub async fn marked(&mut self, text: &str) {
        let mut seen = Vec::new();
        let waiting = async {
            while seen.last().is_none_or(|last| last != text) {
                seen.push(self.marker().await);
            }
        };
        let ended = timeout(LIMIT, waiting).await;
        assert!(ended.is_ok(), "{text} in time, and not only {seen:?}");
    }

    /// The error that ends the stream.
    pub async fn end(&mut self) -> Status {
        let start = std::time::Instant::now();
        loop {
            if let Err(status) = self.batch().await {
                return status;
            }
            assert!(start.elapsed() < 3 * LIMIT, "an end in time");
        }
    }

    pub async fn change(&mut self) -> Numbered {
        // Heartbeats are batches, too: they must not make it wait for ever.
        let start = std::time::Instant::now();
        loop {
            match self.changes.pop_front() {
                Some(change) => return change,
                None => drop(self.batch().await.unwrap()),
            }
            assert!(start.elapsed() < 3 * LIMIT, "a change in time");
        }
    }

    /// All changes up to and with the commit of the `commits`th transaction.
    pub async fn transactions(&mut self, commits: usize) -> Vec<Numbered> {
        let (mut changes, mut left) = (Vec::new(), commits);
        while left > 0 {
            let change = self.change().await;
            left -= usize::from(matches!(change.event, Some(Event::Commit(_))));
            changes.push(change);
        }
        changes
    }

    /// The same as text, without begins and commits.
    pub async fn told(&mut self, commits: usize) -> Vec<String> {
        let changes = self.transactions(commits).await;
        changes
            .iter()
            .filter_map(|change| self.tell(change))
            .collect()
    }

    fn accept(&mut self, batch: &ChangeBatch) {
        self.largest = self.largest.max(batch.encoded_len());
        assert!(batch.resume_token.len() <= 256);
        if batch.waiting_for.is_empty() {
            let order = batch.resume_token.cmp(&self.last.resume_token);
            assert!(order.is_ge(), "a place that falls");
            assert!(!batch.resume_token.is_empty() && batch.send_time.is_some());
            let (now, before) = (batch.server_position.unwrap(), self.last.server_position);
            let before = before.unwrap_or_default();
            assert!(now.sent >= before.sent && now.server_wal_end >= before.server_wal_end);
            assert!(now.acknowledged <= now.sent);
        }
        let is = |change: Option<&Change>, wanted: fn(&Event) -> bool| {
            change.is_some_and(|change| wanted(change.event.as_ref().unwrap()))
        };
        let position = batch.position.unwrap_or_default();
        let opens = is(batch.changes.first(), |event| {
            matches!(event, Event::Begin(_))
        });
        let ends = is(batch.changes.last(), |event| {
            matches!(event, Event::Commit(_))
        });
        assert_eq!(
            (position.opens_transaction, position.ends_transaction),
            (opens, ends)
        );
        let (mut next, mut counted) = (batch.first_ordinal, false);
        for change in &batch.changes {
            let event = change.event.clone();
            let ordinal = match event.as_ref().unwrap() {
                Event::Begin(_) => {
                    next = if counted { 1 } else { next };
                    0
                }
                Event::Fragment(fragment) if fragment.last => next,
                Event::Row(_) | Event::Truncate(_) => next,
                Event::Message(message) if message.transactional => next,
                _ => 0,
            };
            next += u64::from(ordinal > 0);
            counted |= ordinal > 0;
            let change = Numbered { event, ordinal };
            self.check(&change);
            match change.event {
                Some(Event::Marker(marker)) => self.markers.push_back(marker),
                _ => self.changes.push_back(change),
            }
        }
        self.last = ChangeBatch {
            changes: Vec::new(),
            ..batch.clone()
        };
    }

    fn check(&mut self, change: &Numbered) {
        let counts = match change.event.as_ref().unwrap() {
            Event::Begin(begin) => {
                assert_eq!(self.open, None, "a transaction in a transaction");
                assert!(begin.commit_lsn >= self.committed, "commit order");
                self.open = Some((begin.commit_lsn, 0));
                false
            }
            Event::Commit(commit) => {
                let (lsn, ordinal) = self.open.take().expect("a begin before the commit");
                assert_eq!(commit.commit_lsn, lsn);
                assert!(commit.end_lsn > lsn && ordinal > 0, "an empty transaction");
                self.committed = commit.end_lsn;
                false
            }
            Event::Schema(schema) => {
                let known = self.schemas.insert(schema.schema_id, schema.clone());
                assert_eq!(known, None, "a number that was used");
                false
            }
            Event::Row(row) => {
                let columns = self.schemas[&row.schema_id].columns.len();
                for row in row.after.iter().chain(&row.before) {
                    assert_eq!(row.values.len(), columns);
                }
                true
            }
            Event::Truncate(truncate) => {
                assert!(
                    truncate
                        .schema_ids
                        .iter()
                        .all(|id| self.schemas.contains_key(id))
                );
                true
            }
            Event::Message(message) if !message.transactional => {
                assert_eq!(self.open, None, "a message of its own in a transaction");
                return;
            }
            Event::Message(_) => true,
            Event::Marker(_) => {
                assert_eq!(self.open, None, "a marker in a transaction");
                return;
            }
            Event::Fragment(fragment) if !fragment.last => return,
            Event::Fragment(_) => true,
        };
        match &mut self.open {
            Some((_, ordinal)) if counts => {
                assert!(change.ordinal > *ordinal, "ordinals rise");
                *ordinal = change.ordinal;
            }
            None if counts => panic!("outside a transaction: {change:?}"),
            _ => assert_eq!(change.ordinal, 0),
        }
    }

    /// A change as text; nothing for begin and commit.
    pub fn tell(&self, change: &Numbered) -> Option<String> {
        Some(match change.event.as_ref().unwrap() {
            Event::Begin(_) | Event::Commit(_) => return None,
            Event::Schema(schema) => schema_text(schema),
            Event::Row(row) => self.row_text(row),
            Event::Truncate(truncate) => {
                let mut tables: Vec<_> = truncate
                    .schema_ids
                    .iter()
                    .map(|id| self.schemas[id].table.as_str())
                    .collect();
                tables.sort_unstable();
                let tables = tables.join(",");
                let (cascade, restart) = (truncate.cascade, truncate.restart_identity);
                format!("truncate {tables} cascade={cascade} restart={restart}")
            }
            Event::Message(message) => {
                let content = String::from_utf8_lossy(&message.content);
                let kind = if message.transactional { "in" } else { "out" };
                format!("message {} {content} {kind}", message.prefix)
            }
            Event::Marker(marker) => panic!("{marker:?}"),
            Event::Fragment(fragment) => format!("fragment {}", fragment.index),
        })
    }

    fn row_text(&self, row: &RowChange) -> String {
        let schema = &self.schemas[&row.schema_id];
        let mut text = match row.kind() {
            Kind::Insert => "insert",
            Kind::Update => "update",
            Kind::Delete => "delete",
            Kind::Unspecified => panic!("{row:?}"),
        }
        .to_owned();
        text.push_str(&format!(" {}", schema.table));
        if let Some(before) = &row.before {
            text.push_str(&format!(" ({})", values_text(before)));
        }
        if let Some(after) = &row.after {
            text.push_str(&format!(" -> ({})", values_text(after)));
        }
        if !row.element_id.is_empty() {
            text.push_str(&format!(" {}", row.element_id));
        }
        text
    }
}

fn schema_text(schema: &Schema) -> String {
    let columns: Vec<_> = schema
        .columns
        .iter()
        .map(|column| format!("{}{}", column.name, if column.identity { "*" } else { "" }))
        .collect();
    let identity = match schema.replica_identity() {
        ReplicaIdentity::Default => "default",
        ReplicaIdentity::Nothing => "nothing",
        ReplicaIdentity::Full => "full",
        ReplicaIdentity::Index => "index",
        ReplicaIdentity::Unspecified => panic!("{schema:?}"),
    };
    let partition = match schema.partition.as_str() {
        "" => String::new(),
        name => format!(" partition {name}"),
    };
    let inserts = match schema.published() {
        PublishedEvents::Inserts => " inserts",
        PublishedEvents::All | PublishedEvents::Unspecified => "",
    };
    format!(
        "schema {}.{}({}) {identity} key({}){partition}{inserts}",
        schema.namespace,
        schema.table,
        columns.join(","),
        schema.key_columns.join(",")
    )
}

fn values_text(row: &Row) -> String {
    let values: Vec<_> = row.values.iter().map(value_text).collect();
    values.join(",")
}

fn value_text(value: &Value) -> String {
    match value.value.as_ref().unwrap() {
        value::Value::Text(text) if text.len() > 60 => format!("{} bytes", text.len()),
        value::Value::Text(text) => text.clone(),
        value::Value::Binary(bytes) => format!("{bytes:02x?}"),
        value::Value::Null(_) => "NULL".into(),
        value::Value::Unchanged(_) => "UNCHANGED".into(),
        value::Value::Absent(_) => "ABSENT".into(),
    }
}
