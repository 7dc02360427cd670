//! Notes: messages of Howdah's own in the log.
//!
//! What the watch finds in the catalogs, and what it changes in the publications, it also writes
//! into the log with `pg_logical_emit_message`. A change of a publication and its note are one
//! transaction. So the pump learns of both between the changes of before and of after.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    domain::Reason,
    pb::v1::{Marker, marker},
};

/// Prefixes that begin with this are Howdah's own.
pub(super) const RESERVED: &[u8] = b"howdah.";

/// The prefix of the notes of a subscription. Anybody may write a message with any prefix, so it
/// is a secret, and not the unique id that the names of slots and publications have.
pub(super) fn prefix(secret: Uuid) -> String {
    format!("howdah.{}", secret.simple())
}

/// A message for the pump of one subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Tables and partitions by oid, and whether all of their events are published from here on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) published: Vec<(u32, bool)>,
    /// Tables that are followed from here on, by oid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) followed: Vec<u32>,
    /// Partitions and the tables that they belong to from here on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) roots: Vec<(u32, Root)>,
    /// Markers to send.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) markers: Vec<Seen>,
    /// Why the stream has to end here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<End>,
}

/// The table that a partition belongs to, as rows name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Root {
    pub(super) oid: u32,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Its columns, in their order.
    pub(super) columns: Vec<String>,
}

/// A marker, as a note has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) kind: i32,
    pub(super) namespace: String,
    pub(super) table: String,
    pub(super) after: u64,
    pub(super) before: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) partitions: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) incomplete: Vec<u32>,
    pub(super) detail: String,
    #[serde(default)]
    pub(super) former_oid: u32,
    #[serde(default)]
    pub(super) relation_oid: u32,
}

/// Why a stream ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    /// Whether it is about the publication, and not about a table.
    pub(super) publication: bool,
    /// The table or the publication.
    pub(super) name: String,
    pub(super) message: String,
}

impl End {
    pub(super) fn reason(&self) -> Reason {
        match self.publication {
            true => Reason::PublicationChanged,
            false => Reason::TableReplaced,
        }
    }
}

impl Seen {
    pub(super) fn new(kind: marker::Kind, detail: &str) -> Self {
        Self {
            kind: kind.into(),
            detail: detail.to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn marker(self) -> Marker {
        Marker {
            kind: self.kind,
            namespace: self.namespace,
            table: self.table,
            after_lsn: self.after,
            before_lsn: self.before,
            partitions: self.partitions,
            incomplete_xids: self.incomplete,
            detail: self.detail,
            former_oid: self.former_oid,
            relation_oid: self.relation_oid,
        }
    }
}

impl Note {
    /// Whether there is nothing to say.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A statement that writes the note into the log, as a part of the transaction.
    pub(super) fn statement(&self, secret: Uuid) -> String {
        // It has strings and numbers only, which always serialize.
        let text = serde_json::to_vec(self).unwrap_or_default();
        let hex = text.iter().fold(String::new(), |mut hex, byte| {
            hex.push_str(&format!("{byte:02x}"));
            hex
        });
        // As bytes: text would be stored in the encoding of the database.
        format!(
            "select pg_logical_emit_message(true, '{}', decode('{hex}', 'hex'))",
            prefix(secret)
        )
    }

    /// Reads a note. Returns none if the content is not a note.
    pub(super) fn read(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_read_back() {
        let note = Note {
            published: vec![(5, false)],
            markers: vec![Seen {
                after: u64::MAX,
                ..Seen::new(marker::Kind::TableRewritten, "it's")
            }],
            ..Note::default()
        };
        let text = serde_json::to_vec(&note).unwrap();
        assert_eq!(Note::read(&text), Some(note.clone()));
        assert_eq!(Note::read(b"hello"), None);
        let statement = note.statement(Uuid::nil());
        assert!(statement.contains("69742773"), "{statement}");
    }
}
