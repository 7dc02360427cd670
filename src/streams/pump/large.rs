//! Changes that no message can hold.

use prost::Message;

use super::{Filled, LargeChanges, Pump};
use crate::{
    domain::Result,
    pb::v1::{Change, Fragment, Marker, change::Event, marker},
    streams::{encode::RowChange, fault},
};

/// Bytes of a part.
const PART: usize = 1 << 20;

/// A change that is larger than a batch may be.
pub(super) struct Large {
    /// The table; none for a message.
    oid: Option<u32>,
    bytes: usize,
    /// The encoded `Change`, where parts of it are sent.
    change: Vec<u8>,
}

impl Large {
    pub(super) fn of_row(oid: u32, bytes: usize, row: &RowChange<'_>, what: LargeChanges) -> Self {
        let mut change = Vec::new();
        if what == LargeChanges::Fragments {
            row.write(&mut change);
        }
        Self {
            oid: Some(oid),
            bytes,
            change,
        }
    }

    pub(super) fn of_event(event: Event, bytes: usize, what: LargeChanges) -> Self {
        let change = Change { event: Some(event) };
        Self {
            oid: None,
            bytes,
            change: match what {
                LargeChanges::Fragments => change.encode_to_vec(),
                LargeChanges::End | LargeChanges::Skip => Vec::new(),
            },
        }
    }
}

impl Pump {
    /// Does with it what the request asks for.
    pub(super) async fn add_large(&mut self, large: Large, ordinal: u64) -> Result<()> {
        let name = large.oid.and_then(|oid| self.relations.name(oid));
        match self.large {
            LargeChanges::End => {
                let lsn = self.commit_lsn();
                Err(fault::too_large(large.bytes, name.as_deref(), lsn))
            }
            LargeChanges::Fragments => self.send_parts(&large.change, ordinal).await,
            LargeChanges::Skip => self.skip(&large, name.as_deref(), ordinal).await,
        }
    }

    /// Each part is a batch of its own. Until the last one the position stays before the change.
    async fn send_parts(&mut self, change: &[u8], ordinal: u64) -> Result<()> {
        self.flush().await?;
        let parts = change.chunks(PART);
        let last = parts.len().saturating_sub(1);
        for (index, part) in parts.enumerate() {
            let fragment = Event::Fragment(Fragment {
                index: u32::try_from(index).unwrap_or(u32::MAX),
                last: index == last,
                part: part.to_vec(),
            });
            // It fits: the batch was sent, and a part is smaller than a batch may be.
            let _: Result<Option<Filled>, _> = self.batch.add(fragment, ordinal);
            self.flush().await?;
        }
        Ok(())
    }

    /// The marker follows its transaction. The ordinals of a batch have no gap: it ends here.
    async fn skip(&mut self, large: &Large, name: Option<&str>, ordinal: u64) -> Result<()> {
        self.flush().await?;
        let known = large.oid.and_then(|oid| self.relations.get(oid).ok());
        let (namespace, table) = known.map_or_else(Default::default, |known| {
            let schema = &known.schema;
            (schema.namespace.clone(), schema.table.clone())
        });
        let lsn = self.commit_lsn().unwrap_or_default().get();
        let what = name.unwrap_or("a message");
        let marker = Marker {
            kind: marker::Kind::ChangeSkipped.into(),
            namespace,
            table,
            after_lsn: lsn,
            before_lsn: lsn,
            detail: format!(
                "change {ordinal} of its transaction, of {what}, takes {} bytes and was left out",
                large.bytes
            ),
            ..Marker::default()
        };
        match &mut self.transaction {
            Some(transaction) => transaction.markers.push(marker),
            // It fits: the batch is empty.
            None => drop(self.batch.add(Event::Marker(marker), 0)),
        }
        Ok(())
    }
}
