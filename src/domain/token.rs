//! Tokens of change streams: a position, and what it is a position of.

use aws_lc_rs::digest::{SHA256, digest};
use uuid::Uuid;

use super::{
    Error, Reason, Result,
    change_stream::{ChangeStream, Log, Position},
};

/// Form of the bytes below.
const VERSION: u8 = 1;

/// Bytes of the check at the end: a token that was damaged on its way must not name another
/// position.
const CHECK: usize = 4;

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Unique id of the change stream.
    pub stream: Uuid,
    /// The log that the position is in.
    pub log: Log,
    /// Hash of what decides how the events of a transaction are counted.
    pub options: u32,
    /// The position.
    pub position: Position,
}

impl Token {
    /// The token as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(self.stream.as_bytes());
        bytes.extend_from_slice(&self.log.epoch.to_be_bytes());
        bytes.extend_from_slice(&self.log.system_identifier.to_be_bytes());
        bytes.extend_from_slice(&self.log.timeline.to_be_bytes());
        bytes.extend_from_slice(&self.options.to_be_bytes());
        bytes.extend_from_slice(&self.position.lsn.to_be_bytes());
        bytes.extend_from_slice(&self.position.events.to_be_bytes());
        bytes.extend_from_slice(&check(&bytes));
        bytes
    }

    /// Reads a token of a client.
    ///
    /// # Errors
    /// FIELD_INVALID.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let malformed = || {
            let message = "the token is not one of a change stream, or damaged";
            Error::new(Reason::FieldInvalid, message).with_field("token")
        };
        let (said, checked) = bytes.split_last_chunk::<CHECK>().ok_or_else(malformed)?;
        let (version, said_rest) = said.split_first().ok_or_else(malformed)?;
        if *version != VERSION || *checked != check(said) {
            return Err(malformed());
        }
        let mut rest = said_rest;
        let token = Self {
            stream: Uuid::from_bytes(take(&mut rest).ok_or_else(malformed)?),
            log: Log {
                epoch: i64::from_be_bytes(take(&mut rest).ok_or_else(malformed)?),
                system_identifier: u64::from_be_bytes(take(&mut rest).ok_or_else(malformed)?),
                timeline: u32::from_be_bytes(take(&mut rest).ok_or_else(malformed)?),
            },
            options: u32::from_be_bytes(take(&mut rest).ok_or_else(malformed)?),
            position: Position {
                lsn: u64::from_be_bytes(take(&mut rest).ok_or_else(malformed)?),
                events: u64::from_be_bytes(take(&mut rest).ok_or_else(malformed)?),
            },
        };
        match rest.is_empty() {
            true => Ok(token),
            false => Err(malformed()),
        }
    }

    /// The position, if it is one of that stream.
    ///
    /// # Errors
    /// TOKEN_FOREIGN.
    pub fn position_in(&self, stream: &ChangeStream) -> Result<Position> {
        let foreign = |what: &str| {
            let message = format!("the token is of another {what}");
            Err(Error::new(Reason::TokenForeign, message).with_field("token"))
        };
        let Some(log) = stream.log else {
            return foreign("change stream");
        };
        if self.stream != stream.uid {
            return foreign("change stream");
        }
        if self.log.system_identifier != log.system_identifier {
            return foreign("cluster");
        }
        if (self.log.epoch, self.log.timeline) != (log.epoch, log.timeline) {
            return foreign("history of the cluster");
        }
        if self.options != stream.options() {
            return foreign("form of the change stream");
        }
        Ok(self.position)
    }
}

/// The first bytes, which are taken away.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let hash = digest(&SHA256, bytes);
    let first = hash.as_ref().first_chunk::<CHECK>();
    first.copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_read_back(id: u128, epoch: i64, cluster: u64, timeline: u32, options: u32, lsn: u64, events: u64) {
            let token = Token {
                stream: Uuid::from_u128(id),
                log: Log { epoch, system_identifier: cluster, timeline },
                options,
                position: Position { lsn, events },
            };
            prop_assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Token::decode(&bytes).is_err());
        }
    }

    #[test]
    fn each_damaged_byte_is_found() {
        let token = Token {
            stream: Uuid::from_u128(1),
            log: Log {
                epoch: 1,
                system_identifier: 2,
                timeline: 3,
            },
            options: 0,
            position: Position { lsn: 4, events: 5 },
        };
        let bytes = token.encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let refused = Token::decode(&damaged).unwrap_err();
            assert_eq!(refused.reason(), Reason::FieldInvalid, "{at}");
            assert!(Token::decode(&bytes[..at]).is_err(), "{at}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(Token::decode(&longer).is_err());
    }
}
