//! Collects encoded changes into batches.

use prost::Message;

use super::{encode::RowChange, wire};
use crate::pb::{
    EncodedBatch,
    v1::{Change, ChangeBatch, change::Event, change_batch::Position},
};

/// Largest encoded batch in bytes. The usual limit of gRPC clients is 4 MiB.
const LARGEST: usize = 3_500_000;

/// Upper bound for the encoded size of a batch without its changes: token, position, time and
/// server positions. In bytes.
const AROUND: usize = 200;

/// The field of a batch that its changes are in.
const CHANGES: u32 = 1;

/// Smallest memory that is taken for a batch, in bytes.
const SMALLEST: usize = 1024;

/// A change that is larger than a batch may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    /// Its encoded size.
    pub(super) bytes: usize,
}

/// Changes that are to be sent together.
#[derive(Debug, Default)]
pub(super) struct Filled {
    /// The encoded changes.
    changes: Vec<u8>,
    /// Whether the first one begins a transaction, and the last one ends one.
    position: Option<Position>,
    first_ordinal: u64,
}

impl Filled {
    /// The whole batch, with what `around` has beside the changes.
    pub(super) fn seal(self, around: ChangeBatch) -> EncodedBatch {
        let around = ChangeBatch {
            position: self.position,
            first_ordinal: self.first_ordinal,
            ..around
        };
        let mut bytes = self.changes;
        bytes.reserve_exact(around.encoded_len());
        // The order of fields means nothing. It fits: memory was reserved.
        around.encode_raw(&mut bytes);
        EncodedBatch(bytes.into())
    }
}

/// A batch that is being filled.
#[derive(Debug)]
pub(super) struct Batch {
    filled: Filled,
    cut_at: usize,
    /// Size of the last batch, by which memory is taken for the next one.
    last: usize,
}

impl Batch {
    pub(super) fn new(cut_at: usize) -> Self {
        Self {
            filled: Filled::default(),
            cut_at,
            last: 0,
        }
    }

    /// Adds an event. Returns the former batch if that had no room for it: it is to be sent.
    ///
    /// # Errors
    /// [`TooLarge`] for an event that is larger than a batch may be.
    pub(super) fn add(&mut self, event: Event, ordinal: u64) -> Result<Option<Filled>, TooLarge> {
        let (begins, ends) = (
            matches!(event, Event::Begin(_)),
            matches!(event, Event::Commit(_)),
        );
        let change = Change { event: Some(event) };
        let len = change.encoded_len();
        let before = self.make_room(len, ordinal, begins, ends)?;
        wire::begin(&mut self.filled.changes, CHANGES, len);
        change.encode_raw(&mut self.filled.changes);
        Ok(before)
    }

    /// The same for a change of a row.
    pub(super) fn add_row(
        &mut self,
        row: &RowChange<'_>,
        ordinal: u64,
    ) -> Result<Option<Filled>, TooLarge> {
        let len = row.change_len();
        let before = self.make_room(len, ordinal, false, false)?;
        wire::begin(&mut self.filled.changes, CHANGES, len);
        row.write(&mut self.filled.changes);
        Ok(before)
    }

    fn make_room(
        &mut self,
        len: usize,
        ordinal: u64,
        begins: bool,
        ends: bool,
    ) -> Result<Option<Filled>, TooLarge> {
        let bytes = wire::field_len(len);
        if bytes + AROUND > LARGEST {
            return Err(TooLarge { bytes });
        }
        let full = !self.is_empty() && self.filled.changes.len() + AROUND + bytes > self.cut_at;
        let before = if full { self.take() } else { None };
        if self.filled.changes.capacity() == 0 {
            let likely = self.last.max(bytes).clamp(SMALLEST, LARGEST);
            self.filled.changes.reserve_exact(likely + AROUND);
        }
        if self.filled.first_ordinal == 0 {
            self.filled.first_ordinal = ordinal;
        }
        let position = self.filled.position.get_or_insert(Position {
            opens_transaction: begins,
            ends_transaction: false,
        });
        position.ends_transaction = ends;
        Ok(before)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled.changes.is_empty()
    }

    /// Takes the batch out, unless it is empty.
    pub(super) fn take(&mut self) -> Option<Filled> {
        if self.is_empty() {
            return None;
        }
        self.last = self.filled.changes.len();
        Some(std::mem::take(&mut self.filled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::v1::{Begin, Commit, LogicalMessage};

    fn message(bytes: usize) -> Event {
        Event::Message(LogicalMessage {
            content: vec![0; bytes],
            transactional: true,
            ..LogicalMessage::default()
        })
    }

    fn read(filled: Filled) -> ChangeBatch {
        let around = ChangeBatch {
            resume_token: vec![7],
            ..ChangeBatch::default()
        };
        ChangeBatch::decode(filled.seal(around).0).unwrap()
    }

    #[test]
    fn cuts_where_it_should_and_says_where_it_stands() {
        let mut batch = Batch::new(1024);
        let begin = Event::Begin(Begin::default());
        assert!(batch.add(begin, 0).unwrap().is_none());
        assert!(batch.add(message(600), 1).unwrap().is_none());
        let first = read(batch.add(message(600), 2).unwrap().unwrap());
        assert_eq!((first.changes.len(), first.first_ordinal), (2, 1));
        let position = first.position.unwrap();
        assert!(position.opens_transaction && !position.ends_transaction);
        let commit = Event::Commit(Commit::default());
        assert!(batch.add(commit, 0).unwrap().is_none());
        let second = read(batch.take().unwrap());
        assert_eq!((second.changes.len(), second.first_ordinal), (2, 2));
        let position = second.position.unwrap();
        assert!(!position.opens_transaction && position.ends_transaction);
        assert_eq!(second.resume_token, [7]);
        assert!(batch.take().is_none());
    }

    #[test]
    fn what_no_message_can_hold_is_refused() {
        let mut batch = Batch::new(1024);
        assert!(batch.add(message(3_499_000), 1).unwrap().is_none());
        let error = batch.add(message(3_600_000), 2).unwrap_err();
        assert!(error.bytes > 3_600_000);
        // What was there stays.
        assert_eq!(read(batch.take().unwrap()).changes.len(), 1);
    }
}
