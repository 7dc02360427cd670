//! Durable change streams of instances: their records, and the lists of them.

mod changes;
mod look_after;
mod record;

use std::collections::BTreeMap;

use sqlx::types::Json;
use uuid::Uuid;

use self::record::Record;
use super::{
    Store, Tx,
    fault::{Measured, broken_constraint, classify},
    listing::{CHANGE_STREAMS, Parent, Part, Slice, find},
};
use crate::domain::{
    Error, Reason, Result,
    change_stream::{ChangeStream, OnChange, Publish, Source},
    name::ChangeStreamName,
    postgres::PostgresName,
    recorded::Recorded,
};

pub use self::changes::Made;

/// One text of the columns for all the queries below.
macro_rules! select_change_streams {
    ($($tail:literal)* $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            crate::store::change_streams::record::Record,
            r#"select c.uid, c.instance_uid, i.project, i.id as instance, c.id, c.revision,
                c.labels::text as "labels!", c.create_time, c.update_time, c.state, c.database,
                c.tables::text as "tables!", c.publication,
                c.publications::text as "publications!", c.publish, c.on_change, c.slot,
                c.slot_adopted, c.max_retained_bytes, c.drop_when_exceeded, c.server_uid,
                c.epoch, c.system_identifier, c.timeline, c.acknowledged_lsn, c.acknowledged_events,
                c.conditions::text as "conditions!"
            from change_streams c join instances i on i.uid = c.instance_uid "# $(+ $tail)*
            $(, $argument)*
        )
    };
}
use select_change_streams;

/// What a new change stream is recorded with.
#[derive(Clone, Debug)]
pub struct NewChangeStream {
    /// Unique id, never reused.
    pub uid: Uuid,
    /// Unique id of the instance.
    pub instance_uid: Uuid,
    /// Resource name.
    pub name: ChangeStreamName,
    /// Labels of the user.
    pub labels: BTreeMap<String, String>,
    /// Name of the database in PostgreSQL.
    pub database: PostgresName,
    /// What it follows.
    pub source: Source,
    /// What is published of its tables.
    pub publish: Publish,
    /// What to do when what it follows is not any more what was asked for.
    pub on_change: OnChange,
    /// Name of its replication slot.
    pub slot: PostgresName,
    /// Whether the slot is there already.
    pub slot_adopted: bool,
    /// Bytes of log that the slot may retain; 0 for no bound.
    pub max_retained_bytes: i64,
    /// Drops the slot when it retains more.
    pub drop_when_exceeded: bool,
    /// The server that the slot is on.
    pub server_uid: Uuid,
}

impl Store {
    /// The change stream of that name.
    ///
    /// # Errors
    /// CHANGE_STREAM_NOT_FOUND; METADATA_UNAVAILABLE.
    pub async fn change_stream(&self, name: &ChangeStreamName) -> Result<Recorded<ChangeStream>> {
        let record = select_change_streams!(
            "where i.project = $1 and i.id = $2 and c.id = $3",
            name.instance.project.as_str(),
            name.instance.instance.as_str(),
            name.stream.as_str(),
        )
        .fetch_optional(&self.pool)
        .named("change_streams.change_stream")
        .await?;
        record.map(Record::read).ok_or_else(|| not_found(name))
    }

    /// The change stream with that unique id, if it is there.
    ///
    /// # Errors
    /// RECORD_UNREADABLE; METADATA_UNAVAILABLE.
    pub async fn change_stream_by_uid(&self, uid: Uuid) -> Result<Option<ChangeStream>> {
        let record = select_change_streams!("where c.uid = $1", uid)
            .fetch_optional(&self.pool)
            .named("change_streams.change_stream_by_uid")
            .await?;
        record.map(|record| record.read().whole()).transpose()
    }

    /// A part of an instance's change streams, in order.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn change_streams(
        &self,
        instance: Uuid,
        slice: Slice<'_>,
    ) -> Result<Part<Recorded<ChangeStream>>> {
        let (pool, parent) = (&self.pool, Parent::Instance(instance));
        let found = find(pool, "change_streams.find", &CHANGE_STREAMS, parent, slice).await?;
        let records = select_change_streams!("where c.uid = any($1)", &found.records)
            .fetch_all(&self.pool)
            .named("change_streams.list")
            .await?;
        let records = records.into_iter().map(Record::read).collect();
        Ok(found.of(records, |stream| match stream {
            Recorded::Whole(stream) => stream.uid,
            Recorded::Unreadable(unreadable) => unreadable.uid,
        }))
    }
}

impl Tx {
    /// The change stream of that name, locked against every other change.
    ///
    /// # Errors
    /// CHANGE_STREAM_NOT_FOUND, RECORD_UNREADABLE; METADATA_UNAVAILABLE.
    pub async fn lock_change_stream(&mut self, name: &ChangeStreamName) -> Result<ChangeStream> {
        let record = select_change_streams!(
            "where i.project = $1 and i.id = $2 and c.id = $3 for update of c",
            name.instance.project.as_str(),
            name.instance.instance.as_str(),
            name.stream.as_str(),
        )
        .fetch_optional(self.connection())
        .named("change_streams.lock_change_stream")
        .await?;
        record.ok_or_else(|| not_found(name))?.read().whole()
    }

    /// The change stream with that unique id, locked against every other change.
    ///
    /// # Errors
    /// RECORD_UNREADABLE; METADATA_UNAVAILABLE.
    pub async fn lock_change_stream_by_uid(&mut self, uid: Uuid) -> Result<Option<ChangeStream>> {
        let record = select_change_streams!("where c.uid = $1 for update of c", uid)
            .fetch_optional(self.connection())
            .named("change_streams.lock_change_stream_by_uid")
            .await?;
        record.map(|record| record.read().whole()).transpose()
    }

    /// How many change streams an instance has.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn count_change_streams(&mut self, instance: Uuid) -> Result<i64> {
        sqlx::query_scalar!(
            r#"select count(*) as "count!" from change_streams where instance_uid = $1"#,
            instance,
        )
        .fetch_one(self.connection())
        .named("change_streams.count_change_streams")
        .await
    }

    /// Records a new change stream, in state CREATING.
    ///
    /// # Errors
    /// CHANGE_STREAM_EXISTS; METADATA_UNAVAILABLE.
    pub async fn insert_change_stream(&mut self, new: &NewChangeStream) -> Result<()> {
        let (tables, publication): (&[String], &str) = match &new.source {
            Source::Tables(tables) => (tables, ""),
            Source::Publication(name) => (&[], name.as_str()),
        };
        let inserted = sqlx::query!(
            "insert into change_streams (uid, instance_uid, id, labels, state, database, tables,
                publication, publish, on_change, slot, slot_adopted, max_retained_bytes,
                drop_when_exceeded, server_uid)
             values ($1, $2, $3, $4, 'CREATING', $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            new.uid,
            new.instance_uid,
            new.name.stream.as_str(),
            Json(&new.labels) as _,
            new.database.as_str(),
            Json(tables) as _,
            publication,
            new.publish.as_str(),
            new.on_change.as_str(),
            new.slot.as_str(),
            new.slot_adopted,
            new.max_retained_bytes,
            new.drop_when_exceeded,
            new.server_uid,
        )
        .execute(self.connection())
        .raw("change_streams.insert_change_stream")
        .await;
        let Err(error) = inserted else { return Ok(()) };
        let exists = |message| {
            Err(Error::new(Reason::ChangeStreamExists, message).with_resource(new.name.to_string()))
        };
        match broken_constraint(&error) {
            Some("change_streams_instance_uid_id_key") => {
                exists("a change stream of that id exists")
            }
            Some("change_streams_instance_uid_slot_key") => {
                exists("another change stream has that replication slot")
            }
            _ => Err(classify(error)),
        }
    }
}

fn not_found(name: &ChangeStreamName) -> Error {
    Error::new(
        Reason::ChangeStreamNotFound,
        "the change stream does not exist",
    )
    .with_resource(name.to_string())
}
