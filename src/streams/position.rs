//! A position in a stream, as in its tokens.

use uuid::Uuid;

use crate::{
    domain::{
        change_stream::{self, Log},
        token::Token,
    },
    pg::Lsn,
};

/// What the tokens of a stream are about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tokens {
    /// A temporary subscription: its tokens only tell positions apart.
    Temporary(Uuid),
    /// A change stream, with the log that its positions are in and the hash of its options.
    Durable(Uuid, Log, u32),
}

impl Tokens {
    /// The token of a position.
    pub(super) fn of(&self, position: Position) -> Vec<u8> {
        match *self {
            Self::Temporary(uid) => position.token(uid),
            Self::Durable(stream, log, options) => Token {
                stream,
                log,
                options,
                position: position.into(),
            }
            .encode(),
        }
    }
}

impl From<change_stream::Position> for Position {
    fn from(position: change_stream::Position) -> Self {
        Self {
            lsn: Lsn::new(position.lsn),
            events: position.events,
        }
    }
}

impl From<Position> for change_stream::Position {
    fn from(position: Position) -> Self {
        Self {
            lsn: position.lsn.get(),
            events: position.events,
        }
    }
}

/// Comprises all transactions whose commit record starts below `lsn`, and the first `events`
/// events of the transaction whose commit record starts at `lsn`. A message that belongs to no
/// transaction is the first event at its own position. Events are rows, truncates
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
