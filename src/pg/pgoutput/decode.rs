//! From bytes to messages.

use super::message::{
    Abort, Begin, Column, Commit, Delete, Insert, LogicalMessage, Message, Old, Origin,
    PrepareKind, Prepared, Relation, ReplicaIdentity, RolledBack, Truncate, Type, Update,
};
use super::tuple::Tuple;
use crate::pg::Lsn;
use crate::pg::wire::{Cursor, Malformed};

/// Decodes one stream. It remembers a single fact: whether it stands inside a
/// streamed block, where messages carry their transaction.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    streaming: bool,
}

impl Decoder {
    /// At the start of a stream.
    pub fn new() -> Self {
        Decoder::default()
    }

    /// Decodes the payload of one XLogData message. Never panics, takes no
    /// memory, and refuses bytes after the last field.
    pub fn decode<'a>(&mut self, bytes: &'a [u8]) -> Result<Message<'a>, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let tag = cursor.u8()?;
        let message = match tag {
            b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M' => {
                let xid = if self.streaming {
                    Some(cursor.u32()?)
                } else {
                    None
                };
                change(tag, xid, &mut cursor)?
            }
            _ => control(tag, &mut cursor)?,
        };
        cursor.end()?;
        match message {
            Message::StreamStart { .. } if self.streaming => {
                return Err(Malformed("stream block inside a stream block"));
            }
            Message::StreamStart { .. } => self.streaming = true,
            Message::StreamStop if !self.streaming => {
                return Err(Malformed("end of a stream block that did not begin"));
            }
            Message::StreamStop => self.streaming = false,
            _ => {}
        }
        Ok(message)
    }
}

fn change<'a>(
    tag: u8,
    xid: Option<u32>,
    cursor: &mut Cursor<'a>,
) -> Result<Message<'a>, Malformed> {
    Ok(match tag {
        b'R' => Message::Relation(relation(xid, cursor)?),
        b'Y' => Message::Type(Type {
            xid,
            oid: cursor.u32()?,
            schema: cursor.str()?,
            name: cursor.str()?,
        }),
        b'I' => {
            let relation = cursor.u32()?;
            Message::Insert(Insert {
                xid,
                relation,
                new: new(cursor)?,
            })
        }
        b'U' => {
            let relation = cursor.u32()?;
            let old = match cursor.rest().first() {
                Some(b'N') => None,
                _ => Some(old(cursor)?),
            };
            Message::Update(Update {
                xid,
                relation,
                old,
                new: new(cursor)?,
            })
        }
        b'D' => {
            let relation = cursor.u32()?;
            Message::Delete(Delete {
                xid,
                relation,
                old: old(cursor)?,
            })
        }
        b'T' => Message::Truncate(truncate(xid, cursor)?),
        _ => Message::Logical(LogicalMessage {
            xid,
            transactional: cursor.u8()? & 1 == 1,
            lsn: lsn(cursor)?,
            prefix: cursor.str()?,
            content: cursor.sized()?,
        }),
    })
}

fn control<'a>(tag: u8, cursor: &mut Cursor<'a>) -> Result<Message<'a>, Malformed> {
    Ok(match tag {
        b'B' => Message::Begin(Begin {
            commit_lsn: lsn(cursor)?,
            commit_time: cursor.i64()?,
            xid: cursor.u32()?,
        }),
        b'C' => Message::Commit(commit(cursor)?),
        b'O' => Message::Origin(Origin {
            lsn: lsn(cursor)?,
            name: cursor.str()?,
        }),
        b'S' => Message::StreamStart {
            xid: cursor.u32()?,
            first: cursor.u8()? == 1,
        },
        b'E' => Message::StreamStop,
        b'c' => Message::StreamCommit {
            xid: cursor.u32()?,
            commit: commit(cursor)?,
        },
        b'A' => Message::StreamAbort(abort(cursor)?),
        // BEGIN PREPARE has no flags, the others have one unused byte.
        b'b' => Message::Prepared(PrepareKind::Begin, prepared(cursor)?),
        b'P' | b'p' | b'K' => {
            cursor.u8()?;
            let kind = match tag {
                b'P' => PrepareKind::Prepare,
                b'p' => PrepareKind::Stream,
                _ => PrepareKind::Commit,
            };
            Message::Prepared(kind, prepared(cursor)?)
        }
        b'r' => Message::RollbackPrepared(rolled_back(cursor)?),
        _ => return Err(Malformed("unknown kind of message")),
    })
}

fn lsn(cursor: &mut Cursor<'_>) -> Result<Lsn, Malformed> {
    cursor.u64().map(Lsn::new)
}

fn commit(cursor: &mut Cursor<'_>) -> Result<Commit, Malformed> {
    cursor.u8()?;
    Ok(Commit {
        commit_lsn: lsn(cursor)?,
        end_lsn: lsn(cursor)?,
        commit_time: cursor.i64()?,
    })
}

fn abort(cursor: &mut Cursor<'_>) -> Result<Abort, Malformed> {
    let (xid, subxid) = (cursor.u32()?, cursor.u32()?);
    let at = match cursor.is_empty() {
        true => None,
        false => Some((lsn(cursor)?, cursor.i64()?)),
    };
    Ok(Abort { xid, subxid, at })
}

fn prepared<'a>(cursor: &mut Cursor<'a>) -> Result<Prepared<'a>, Malformed> {
    Ok(Prepared {
        lsn: lsn(cursor)?,
        end_lsn: lsn(cursor)?,
        time: cursor.i64()?,
        xid: cursor.u32()?,
        gid: cursor.str()?,
    })
}

fn rolled_back<'a>(cursor: &mut Cursor<'a>) -> Result<RolledBack<'a>, Malformed> {
    cursor.u8()?;
    Ok(RolledBack {
        prepare_end_lsn: lsn(cursor)?,
        end_lsn: lsn(cursor)?,
        prepare_time: cursor.i64()?,
        time: cursor.i64()?,
        xid: cursor.u32()?,
        gid: cursor.str()?,
    })
}

fn relation<'a>(xid: Option<u32>, cursor: &mut Cursor<'a>) -> Result<Relation<'a>, Malformed> {
    let (oid, schema, name) = (cursor.u32()?, cursor.str()?, cursor.str()?);
    let identity = match cursor.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        _ => return Err(Malformed("unknown replica identity")),
    };
    let count = cursor.count()?;
    let columns = cursor.rest();
    for _ in 0..count {
        Column::read(cursor)?;
    }
    Ok(Relation {
        xid,
        oid,
        schema,
        name,
        identity,
        count,
        columns,
    })
}

fn new<'a>(cursor: &mut Cursor<'a>) -> Result<Tuple<'a>, Malformed> {
    match cursor.u8()? {
        b'N' => Tuple::read(cursor),
        _ => Err(Malformed("no new row")),
    }
}

fn old<'a>(cursor: &mut Cursor<'a>) -> Result<Old<'a>, Malformed> {
    match cursor.u8()? {
        b'K' => Tuple::read(cursor).map(Old::Key),
        b'O' => Tuple::read(cursor).map(Old::Full),
        _ => Err(Malformed("no old row")),
    }
}

fn truncate<'a>(xid: Option<u32>, cursor: &mut Cursor<'a>) -> Result<Truncate<'a>, Malformed> {
    let count = cursor.u32()?;
    let options = cursor.u8()?;
    let len = usize::try_from(count).ok().and_then(|n| n.checked_mul(4));
    let oids = cursor.take(len.ok_or(Malformed("too many relations"))?)?;
    Ok(Truncate {
        xid,
        cascade: options & 1 != 0,
        restart_identity: options & 2 != 0,
        oids,
    })
}
