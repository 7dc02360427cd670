//! Durable change streams of an instance.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Error, Reason, Result,
    instance::{Condition, etag},
    name::ChangeStreamName,
    postgres::PostgresName,
    states::states,
};

states! {
    /// Where a change stream stands.
    State {
        /// Being made.
        Creating = "CREATING",
        /// Can be subscribed to.
        Ready = "READY",
        /// Being deleted.
        Deleting = "DELETING",
        /// Its deletion was given up half way.
        Failed = "FAILED",
        /// The server has given up its slot: changes are missing.
        Lost = "LOST",
    }
}

states! {
    /// What is published of tables.
    Publish {
        /// All events of tables with a replica identity; inserts and truncates of the others.
        All = "ALL",
        /// Inserts and truncates.
        Inserts = "INSERTS",
    }
}

states! {
    /// What to do when a name means another table, or a publication was changed.
    OnChange {
        /// The stream ends with the reason.
        End = "END",
        /// The stream goes on with what the name means now.
        Follow = "FOLLOW",
    }
}

/// How far a stream was read: everything before `lsn`, and so many events of the transaction
/// whose commit record is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Position in the server's log.
    pub lsn: u64,
    /// Events of the transaction that commits there.
    pub events: u64,
}

/// What a stream follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Tables, as they were written in the request; the publications are Howdah's.
    Tables(Vec<String>),
    /// A publication that the user has made.
    Publication(PostgresName),
}

/// Which log the positions of a stream are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Epoch of the instance: it rises when another server takes over.
    pub epoch: i64,
    /// PostgreSQL's system identifier.
    pub system_identifier: u64,
    /// Timeline on which the slot was made.
    pub timeline: u32,
}

/// How far a stream is: positions of its server's log, 0 for what is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// End of the log.
    pub wal_end: u64,
    /// End of what the server has sent.
    pub sent: u64,
    /// End of what was received.
    pub received: u64,
    /// End of what was sent to the subscriber.
    pub delivered: u64,
    /// What was acknowledged and is on record.
    pub acknowledged: u64,
    /// What the server knows to be acknowledged.
    pub confirmed: u64,
    /// Oldest log that the slot retains.
    pub restart: u64,
    /// Bytes of log that the slot retains.
    pub retained_bytes: i64,
    /// Bytes of log that can be written before the server may give the slot up; -1 for no
    /// bound.
    pub safe_bytes: i64,
    /// PostgreSQL's `wal_status`.
    pub wal_status: String,
    /// Bytes between the end of the log and what was acknowledged.
    pub lag_bytes: i64,
    /// Whether it has a subscriber.
    pub active: bool,
    /// Since when it has none, as far as is known.
    pub inactive_since: Option<DateTime<Utc>>,
}

/// A durable change stream.
#[derive(Clone, Debug)]
pub struct ChangeStream {
    /// Resource name.
    pub name: ChangeStreamName,
    /// Unique id, never reused.
    pub uid: Uuid,
    /// Unique id of the instance.
    pub instance_uid: Uuid,
    /// Counts the changes of the record; the etag is made of it.
    pub revision: i64,
    /// Labels of the user.
    pub labels: BTreeMap<String, String>,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it last changed.
    pub update_time: DateTime<Utc>,
    /// Where it stands.
    pub state: State,
    /// Name of the database in PostgreSQL.
    pub database: PostgresName,
    /// What it follows.
    pub source: Source,
    /// Names of the publications that it is read through, once they are there.
    pub publications: Vec<String>,
    /// What is published of its tables.
    pub publish: Publish,
    /// What to do when what it follows is not any more what was asked for.
    pub on_change: OnChange,
    /// Name of its replication slot.
    pub slot: PostgresName,
    /// Whether the slot existed before: it is not dropped with the stream.
    pub slot_adopted: bool,
    /// Bytes of log that the slot may retain; 0 for no bound.
    pub max_retained_bytes: i64,
    /// Drops the slot when it retains more.
    pub drop_when_exceeded: bool,
    /// The server that the slot is on.
    pub server_uid: Option<Uuid>,
    /// Which log its positions are in, once the slot is there.
    pub log: Option<Log>,
    /// What subscribers have stored.
    pub acknowledged: Position,
    /// What was observed.
    pub conditions: Vec<Condition>,
}

impl ChangeStream {
    /// The etag of the present record.
    #[must_use]
    pub fn etag(&self) -> String {
        etag(self.uid, self.revision)
    }

    /// Hash of what decides how the events of a transaction are counted: nothing can be chosen
    /// yet.
    #[must_use]
    pub const fn options(&self) -> u32 {
        0
    }

    /// What the names of its own publications begin with.
    #[must_use]
    pub fn publication_prefix(&self) -> String {
        own_name(self.uid)
    }

    /// Refuses what only a stream with a slot can do.
    ///
    /// # Errors
    /// SLOT_LOST, CHANGE_STREAM_NOT_READY.
    pub fn require_ready(&self) -> Result<()> {
        let (reason, message) = match self.state {
            State::Ready => return Ok(()),
            State::Lost => (Reason::SlotLost, self.why_lost()),
            state => (
                Reason::ChangeStreamNotReady,
                format!("the change stream is {}, not READY", state.as_str()),
            ),
        };
        Err(Error::new(reason, message).with_resource(self.name.to_string()))
    }

    fn why_lost(&self) -> String {
        let mut conditions = self.conditions.iter();
        let lost = conditions.find(|condition| condition.kind == LOST);
        let why = lost.map_or("", |condition| condition.message.as_str());
        format!("the change stream is LOST, and changes are missing for ever: {why}")
    }
}

/// Type of the condition that says why a stream is LOST.
pub const LOST: &str = "Lost";

/// Type of the condition whether the slot retains more log than it may.
pub const RETAINING: &str = "Retaining";

/// Type of the condition whether the server may give the slot up.
pub const UNRESERVED: &str = "Unreserved";

/// The name of what Howdah makes on a server for a stream: its slot, and with a number behind
/// it a publication.
#[must_use]
pub fn own_name(stream: Uuid) -> String {
    format!("howdah_{}", stream.simple())
}

/// Refuses a name that no slot can have.
///
/// # Errors
/// FIELD_INVALID.
pub fn slot_name(text: &str) -> Result<PostgresName> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !text.bytes().all(allowed) || text.starts_with("howdah_tmp_") {
        let message = "a slot's name has lower-case letters, digits and underscores, and does \
             not begin with `howdah_tmp_`";
        return Err(Error::new(Reason::FieldInvalid, message).with_field("change_stream.slot"));
    }
    PostgresName::parse(text, "change_stream.slot")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_ordered_by_the_log_first() {
        let at = |lsn, events| Position { lsn, events };
        assert!(at(1, 9) < at(2, 0) && at(2, 0) < at(2, 1));
    }

    #[test]
    fn only_names_of_slots_are_taken() {
        assert_eq!(slot_name("a_1").unwrap().as_str(), "a_1");
        for wrong in ["A", "a-b", "ä", "a b", "howdah_tmp_1"] {
            let refused = slot_name(wrong).unwrap_err();
            assert_eq!(refused.reason(), Reason::FieldInvalid, "{wrong}");
        }
        assert_eq!(
            slot_name(&"a".repeat(64)).unwrap_err().reason(),
            Reason::NameTooLong
        );
        assert_eq!(own_name(Uuid::nil()).len(), 39);
    }
}
