//! Collects changes into batches.

use prost::Message;

use crate::pb::v1::{Change, ChangeBatch, change::Event, change_batch::Position};

/// Largest encoded batch in bytes. The usual limit of gRPC clients is 4 MiB.
const LARGEST: usize = 3_500_000;

/// Upper bound for the encoded size of a batch without its changes: token, position, time and
/// server positions. In bytes.
const AROUND: usize = 160;

/// A change that is larger than a batch may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    /// Its encoded size.
    pub(super) bytes: usize,
}

/// A batch that is being filled.
#[derive(Debug)]
pub(super) struct Batch {
    changes: Vec<Change>,
    bytes: usize,
    cut_at: usize,
    first_ordinal: u64,
}

impl Batch {
    pub(super) fn new(cut_at: usize) -> Self {
        Self {
            changes: Vec::new(),
            bytes: AROUND,
            cut_at,
            first_ordinal: 0,
        }
    }

    /// Adds a change. Returns the former batch if that had no room for it: it is to be sent.
    ///
    /// # Errors
    /// [`TooLarge`] for a change that is larger than a batch may be.
    pub(super) fn add(
        &mut self,
        event: Event,
        ordinal: u64,
    ) -> Result<Option<ChangeBatch>, TooLarge> {
        let change = Change { event: Some(event) };
        let bytes = change.encoded_len() + 8;
        if bytes + AROUND > LARGEST {
            return Err(TooLarge { bytes });
        }
        let full = !self.changes.is_empty() && self.bytes + bytes > self.cut_at;
        let before = if full { self.take() } else { None };
        if self.first_ordinal == 0 {
            self.first_ordinal = ordinal;
        }
        self.bytes += bytes;
        self.changes.push(change);
        Ok(before)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Takes the batch out, unless it is empty.
    pub(super) fn take(&mut self) -> Option<ChangeBatch> {
        if self.changes.is_empty() {
            return None;
        }
        self.bytes = AROUND;
        let changes = std::mem::take(&mut self.changes);
        let is = |change: Option<&Change>, wanted: fn(&Event) -> bool| {
            change
                .and_then(|change| change.event.as_ref())
                .is_some_and(wanted)
        };
        let position = Position {
            opens_transaction: is(changes.first(), |event| matches!(event, Event::Begin(_))),
            ends_transaction: is(changes.last(), |event| matches!(event, Event::Commit(_))),
        };
        Some(ChangeBatch {
            changes,
            position: Some(position),
            first_ordinal: std::mem::take(&mut self.first_ordinal),
            ..ChangeBatch::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::v1::{Begin, Commit, LogicalMessage};

    fn message(bytes: usize) -> Event {
        Event::Message(LogicalMessage {
            content: vec![0; bytes],
            ..LogicalMessage::default()
        })
    }

    #[test]
    fn cuts_where_it_should_and_says_where_it_stands() {
        let mut batch = Batch::new(1024);
        assert!(
            batch
                .add(Event::Begin(Begin::default()), 0)
                .unwrap()
                .is_none()
        );
        assert!(batch.add(message(600), 1).unwrap().is_none());
        let first = batch.add(message(600), 2).unwrap().unwrap();
        assert_eq!(first.changes.len(), 2);
        let position = first.position.unwrap();
        assert!(position.opens_transaction && !position.ends_transaction);
        assert!(
            batch
                .add(Event::Commit(Commit::default()), 0)
                .unwrap()
                .is_none()
        );
        let second = batch.take().unwrap();
        assert_eq!(second.changes.len(), 2);
        let position = second.position.unwrap();
        assert!(!position.opens_transaction && position.ends_transaction);
        assert!(batch.take().is_none());
    }

    #[test]
    fn a_change_that_no_message_holds_is_refused() {
        let TooLarge { bytes } = Batch::new(1024).add(message(4 << 20), 1).unwrap_err();
        assert!(bytes > 4 << 20);
    }
}
