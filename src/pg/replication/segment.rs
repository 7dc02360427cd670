//! What the reader passes to the consumer: complete messages in their wire form.

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::pg::wire::frame::{HEADER, header};
use crate::pg::wire::{Cursor, Malformed, backend};
use crate::pg::{Lsn, ServerError};

/// Consecutive complete messages. Their bytes count against the stream's limit until this is
/// dropped.
#[derive(Debug)]
pub struct Segment {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// A message of the stream. Times are microseconds since 2000-01-01 UTC by
/// the server's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A message of the output plugin.
    Data(Data<'a>),
    /// A keepalive: the server has sent everything up to here. The reader has answered it.
    Keepalive {
        /// The end of the server's log.
        wal_end: Lsn,
        /// When it was sent.
        sent: i64,
    },
    /// A notice or a warning. After some of them the stream is incomplete.
    Notice(ServerError),
}

/// XLogData.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a> {
    /// The position of its record in the log: the start of a change, the end of a commit.
    pub lsn: Lsn,
    /// When it was sent.
    pub sent: i64,
    /// The plugin's message.
    pub payload: &'a [u8],
}

impl Segment {
    pub(super) fn new(bytes: Bytes, room: OwnedSemaphorePermit) -> Self {
        Segment { bytes, _room: room }
    }

    /// The messages in it, in order.
    pub fn items(&self) -> Items<'_> {
        Items(&self.bytes)
    }

    /// Its bytes; slices of a message can be kept by [`Bytes::slice_ref`].
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// The messages of a segment.
#[derive(Clone, Debug)]
pub struct Items<'a>(&'a [u8]);

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        loop {
            // The reader has checked these bytes: this does not fail.
            let (tag, len) = header(self.0).ok()??;
            let (frame, rest) = self.0.split_at_checked(HEADER.checked_add(len)?)?;
            self.0 = rest;
            if let Some(item) = item(tag, frame.get(HEADER..)?).ok()? {
                return Some(item);
            }
        }
    }
}

/// Reads one message. None for a message that the consumer does not need.
pub(super) fn item(tag: u8, body: &[u8]) -> Result<Option<Item<'_>>, Malformed> {
    let mut cursor = Cursor::new(body);
    match tag {
        b'd' => match cursor.u8()? {
            b'w' => {
                let lsn = Lsn::new(cursor.u64()?.max(cursor.u64()?));
                let sent = cursor.i64()?;
                Ok(Some(Item::Data(Data {
                    lsn,
                    sent,
                    payload: cursor.rest(),
                })))
            }
            b'k' => {
                let (wal_end, sent) = (Lsn::new(cursor.u64()?), cursor.i64()?);
                cursor.u8()?;
                cursor.end()?;
                Ok(Some(Item::Keepalive { wal_end, sent }))
            }
            _ => Err(Malformed("unknown kind of replication message")),
        },
        b'N' => Ok(Some(Item::Notice(backend::notice(body)?))),
        b'S' => Ok(None),
        _ => Err(Malformed("unexpected message in the stream")),
    }
}

/// Whether a keepalive asks for a reply at once (its last byte).
pub(super) fn wants_reply(body: &[u8]) -> bool {
    body.last() == Some(&1)
}
