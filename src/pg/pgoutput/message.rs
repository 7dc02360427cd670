//! What the messages hold. Times are microseconds since 2000-01-01 UTC, as
//! PostgreSQL's `TimestampTz`; `xid` in a row's message is there only inside a
//! streamed block.

use super::tuple::Tuple;
use crate::pg::Lsn;
use crate::pg::wire::{Cursor, Malformed};

/// A message of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message<'a> {
    /// A transaction begins, already committed.
    Begin(Begin),
    /// It ends.
    Commit(Commit),
    /// The transaction came from elsewhere, by replication.
    Origin(Origin<'a>),
    /// What a relation looks like from here on.
    Relation(Relation<'a>),
    /// The name of a type that is not built in.
    Type(Type<'a>),
    /// A row came.
    Insert(Insert<'a>),
    /// A row changed.
    Update(Update<'a>),
    /// A row went.
    Delete(Delete<'a>),
    /// Tables were emptied.
    Truncate(Truncate<'a>),
    /// `pg_logical_emit_message`.
    Logical(LogicalMessage<'a>),
    /// A block of a transaction in progress begins.
    StreamStart {
        /// The transaction.
        xid: u32,
        /// Whether it is its first block.
        first: bool,
    },
    /// The block ends.
    StreamStop,
    /// A streamed transaction committed.
    StreamCommit {
        /// The transaction.
        xid: u32,
        /// Where and when.
        commit: Commit,
    },
    /// A streamed transaction or one of its savepoints rolled back.
    StreamAbort(Abort),
    /// Two-phase: BEGIN PREPARE, PREPARE, STREAM PREPARE, COMMIT PREPARED.
    Prepared(PrepareKind, Prepared<'a>),
    /// Two-phase: ROLLBACK PREPARED.
    RollbackPrepared(RolledBack<'a>),
}

/// BEGIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where the commit record starts.
    pub commit_lsn: Lsn,
    /// When it committed.
    pub commit_time: i64,
    /// The transaction.
    pub xid: u32,
}

/// COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where the commit record starts.
    pub commit_lsn: Lsn,
    /// Where it ends.
    pub end_lsn: Lsn,
    /// When it committed.
    pub commit_time: i64,
}

/// Where a replicated transaction came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Its commit on the server where it was made.
    pub lsn: Lsn,
    /// The origin's name.
    pub name: &'a str,
}

/// A relation's replica identity (`pg_class.relreplident`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key, if any.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row.
    Full,
    /// An index.
    Index,
}

/// A relation and its published columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The transaction, inside a streamed block.
    pub xid: Option<u32>,
    /// `pg_class.oid`.
    pub oid: u32,
    /// The schema; pgoutput sends `pg_catalog` as an empty string.
    pub schema: &'a str,
    /// The name.
    pub name: &'a str,
    /// What old rows hold.
    pub identity: ReplicaIdentity,
    pub(super) count: u16,
    pub(super) columns: &'a [u8],
}

impl<'a> Relation<'a> {
    /// The number of columns.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether no column is published.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The columns, in the order of the rows' values.
    pub fn columns(&self) -> impl Iterator<Item = Column<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.columns);
        (0..self.count).map_while(move |_| Column::read(&mut cursor).ok())
    }
}

/// A column of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// Whether it is part of the replica identity; true for all columns under
    /// REPLICA IDENTITY FULL.
    pub key: bool,
    /// The name.
    pub name: &'a str,
    /// `pg_type.oid`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`.
    pub type_modifier: i32,
}

impl<'a> Column<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        Ok(Column {
            key: cursor.u8()? & 1 == 1,
            name: cursor.str()?,
            type_oid: cursor.u32()?,
            type_modifier: cursor.i32()?,
        })
    }
}

/// A type's name. For a domain it is the base type's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type<'a> {
    /// The transaction, inside a streamed block.
    pub xid: Option<u32>,
    /// `pg_type.oid`.
    pub oid: u32,
    /// The schema; empty for `pg_catalog`.
    pub schema: &'a str,
    /// The name.
    pub name: &'a str,
}

/// INSERT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insert<'a> {
    /// The transaction, inside a streamed block.
    pub xid: Option<u32>,
    /// The relation's oid.
    pub relation: u32,
    /// The row.
    pub new: Tuple<'a>,
}

/// What is known of a row before the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old<'a> {
    /// The columns of the replica identity; the others are null.
    Key(Tuple<'a>),
    /// The whole row (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

/// UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update<'a> {
    /// The transaction, inside a streamed block.
    pub xid: Option<u32>,
    /// The relation's oid.
    pub relation: u32,
    /// The row before; a key comes only where it changed.
    pub old: Option<Old<'a>>,
    /// The row after.
    pub new: Tuple<'a>,
}

/// DELETE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delete<'a> {
    /// The transaction, inside a streamed block.
    pub xid: Option<u32>,
    /// The relation's oid.
    pub relation: u32,
    /// The row before.
    pub old: Old<'a>,
}

/// TRUNCATE of one or more tables in one statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncate<'a> {
    /// The transaction, inside a streamed block.
    pub xid: Option<u32>,
    /// CASCADE was given.
    pub cascade: bool,
    /// RESTART IDENTITY was given.
    pub restart_identity: bool,
    pub(super) oids: &'a [u8],
}

impl<'a> Truncate<'a> {
    /// The relations' oids.
    pub fn relations(&self) -> impl Iterator<Item = u32> + use<'a> {
        let mut cursor = Cursor::new(self.oids);
        std::iter::from_fn(move || cursor.u32().ok())
    }
}

/// A message that an application wrote into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// The transaction, inside a streamed block.
    pub xid: Option<u32>,
    /// Whether it shares its transaction's fate.
    pub transactional: bool,
    /// Where its record ends.
    pub lsn: Lsn,
    /// What it is for.
    pub prefix: &'a str,
    /// What it says.
    pub content: &'a [u8],
}

/// STREAM ABORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// The transaction.
    pub xid: u32,
    /// The savepoint's transaction; the same as `xid` if all of it goes.
    pub subxid: u32,
    /// Where and when, with protocol 4 and `streaming 'parallel'`.
    pub at: Option<(Lsn, i64)>,
}

/// Which of the two-phase messages that share a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrepareKind {
    /// A prepared transaction begins.
    Begin,
    /// It ends.
    Prepare,
    /// A streamed transaction was prepared.
    Stream,
    /// COMMIT PREPARED.
    Commit,
}

/// A prepared transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared<'a> {
    /// Where the PREPARE (or COMMIT PREPARED) record starts.
    pub lsn: Lsn,
    /// Where it ends.
    pub end_lsn: Lsn,
    /// When.
    pub time: i64,
    /// The transaction.
    pub xid: u32,
    /// The name that the application gave it.
    pub gid: &'a str,
}

/// ROLLBACK PREPARED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RolledBack<'a> {
    /// Where the PREPARE record ends.
    pub prepare_end_lsn: Lsn,
    /// Where the ROLLBACK PREPARED record ends.
    pub end_lsn: Lsn,
    /// When it was prepared.
    pub prepare_time: i64,
    /// When it was rolled back.
    pub time: i64,
    /// The transaction.
    pub xid: u32,
    /// The name that the application gave it.
    pub gid: &'a str,
}
