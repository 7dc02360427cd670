//! Rows of `change_streams` as this release reads them.

use std::mem::take;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::super::unreadable::{Readable, found_unreadable, json};
use crate::domain::{
    change_stream::{ChangeStream, Log, OnChange, Position, Publish, Source, State},
    name::{ChangeStreamName, Id, InstanceName},
    postgres::PostgresName,
    recorded::{Recorded, Unreadable},
};

/// A row of `change_streams` with the name of its instance.
pub(in crate::store) struct Record {
    pub(super) uid: Uuid,
    pub(super) instance_uid: Uuid,
    pub(super) project: String,
    pub(super) instance: String,
    pub(super) id: String,
    pub(super) revision: i64,
    pub(super) labels: String,
    pub(super) create_time: DateTime<Utc>,
    pub(super) update_time: DateTime<Utc>,
    pub(super) state: String,
    pub(super) database: String,
    pub(super) tables: String,
    pub(super) publication: String,
    pub(super) publications: String,
    pub(super) publish: String,
    pub(super) on_change: String,
    pub(super) slot: String,
    pub(super) slot_adopted: bool,
    pub(super) max_retained_bytes: i64,
    pub(super) drop_when_exceeded: bool,
    pub(super) server_uid: Option<Uuid>,
    pub(super) epoch: Option<i64>,
    pub(super) system_identifier: Option<String>,
    pub(super) timeline: Option<i64>,
    pub(super) acknowledged_lsn: i64,
    pub(super) acknowledged_events: i64,
    pub(super) conditions: String,
}

impl Record {
    pub(super) fn read(mut self) -> Recorded<ChangeStream> {
        match self.change_stream() {
            Ok(stream) => Recorded::Whole(stream),
            Err(column) => self.unreadable(column),
        }
    }

    /// Fails with the column that cannot be read; then [`Record::unreadable`] can still be
    /// called.
    fn change_stream(&mut self) -> Readable<ChangeStream> {
        let instance = InstanceName {
            project: Id::parse(&self.project, "project").map_err(|_| "project")?,
            instance: Id::parse(&self.instance, "instance").map_err(|_| "instance")?,
        };
        let postgres = |column: &'static str, text: &str| {
            PostgresName::parse(text, column).map_err(|_| column)
        };
        Ok(ChangeStream {
            name: ChangeStreamName {
                instance,
                stream: Id::parse(&self.id, "change stream").map_err(|_| "id")?,
            },
            uid: self.uid,
            instance_uid: self.instance_uid,
            revision: self.revision,
            labels: json("labels", &self.labels)?,
            create_time: self.create_time,
            update_time: self.update_time,
            state: State::parse(&self.state).map_err(|_| "state")?,
            database: postgres("database", &self.database)?,
            source: match take(&mut self.publication).as_str() {
                "" => Source::Tables(json("tables", &self.tables)?),
                name => Source::Publication(postgres("publication", name)?),
            },
            publications: json("publications", &self.publications)?,
            publish: Publish::parse(&self.publish).map_err(|_| "publish")?,
            on_change: OnChange::parse(&self.on_change).map_err(|_| "on_change")?,
            slot: postgres("slot", &self.slot)?,
            slot_adopted: self.slot_adopted,
            max_retained_bytes: self.max_retained_bytes,
            drop_when_exceeded: self.drop_when_exceeded,
            server_uid: self.server_uid,
            log: self.log()?,
            acknowledged: position(self.acknowledged_lsn, self.acknowledged_events),
            conditions: json("conditions", &self.conditions)?,
        })
    }

    fn log(&self) -> Readable<Option<Log>> {
        let (Some(epoch), Some(identifier), Some(timeline)) =
            (self.epoch, &self.system_identifier, self.timeline)
        else {
            return Ok(None);
        };
        Ok(Some(Log {
            epoch,
            system_identifier: identifier.parse().map_err(|_| "system_identifier")?,
            timeline: u32::try_from(timeline).map_err(|_| "timeline")?,
        }))
    }

    fn unreadable(self, column: &'static str) -> Recorded<ChangeStream> {
        let (project, instance, id) = (self.project, self.instance, self.id);
        found_unreadable(Unreadable {
            name: format!("projects/{project}/instances/{instance}/changeStreams/{id}"),
            id,
            uid: self.uid,
            create_time: self.create_time,
            update_time: self.update_time,
            delete_time: None,
            column,
        })
    }
}

/// A position as it is stored. The log of no server is as long as 2^63 bytes.
pub(super) fn position(lsn: i64, events: i64) -> Position {
    Position {
        lsn: lsn.unsigned_abs(),
        events: events.unsigned_abs(),
    }
}
