//! A position in a stream, as in its tokens.

use uuid::Uuid;

use crate::pg::Lsn;

/// Comprises all transactions whose commit record starts below `lsn`, and the first `events`
/// events of the transaction whose commit record starts at `lsn`. Events are rows, truncates
/// and transactional messages, counted before the filters of the request. The position of a stream
/// never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) lsn: Lsn,
    pub(super) events: u64,
}

impl Position {
    /// Between transactions.
    pub(super) fn at(lsn: Lsn) -> Self {
        Self { lsn, events: 0 }
    }

    /// The token of this position in the stream `uid`: 32 bytes.
    pub(super) fn token(self, uid: Uuid) -> Vec<u8> {
        let mut token = Vec::with_capacity(32);
        token.extend_from_slice(uid.as_bytes());
        token.extend_from_slice(&self.lsn.get().to_be_bytes());
        token.extend_from_slice(&self.events.to_be_bytes());
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_the_stream() {
        let end = Position::at(Lsn::new(10));
        let inside = Position { events: 1, ..end };
        assert!(end < inside && inside < Position::at(Lsn::new(11)));
        assert_eq!(end.token(Uuid::nil()).len(), 32);
    }
}
