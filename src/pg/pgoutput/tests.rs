//! Written by a small encoder here, read by the decoder.

use proptest::prelude::*;

use super::*;
use crate::pg::Lsn;

#[derive(Clone, Debug)]
enum Cell {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

impl Cell {
    fn value(&self) -> Value<'_> {
        match self {
            Cell::Null => Value::Null,
            Cell::Unchanged => Value::Unchanged,
            Cell::Text(b) => Value::Text(b),
            Cell::Binary(b) => Value::Binary(b),
        }
    }
}

#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn put(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    fn str(self, s: &str) -> Self {
        self.put(s).put([0])
    }

    fn row(mut self, kind: u8, cells: &[Cell]) -> Self {
        self = self.put([kind]).put((cells.len() as u16).to_be_bytes());
        for cell in cells {
            self = match cell {
                Cell::Null => self.put("n"),
                Cell::Unchanged => self.put("u"),
                Cell::Text(b) => self.put("t").put((b.len() as u32).to_be_bytes()).put(b),
                Cell::Binary(b) => self.put("b").put((b.len() as u32).to_be_bytes()).put(b),
            };
        }
        self
    }
}

fn out(tag: u8, xid: Option<u32>) -> Out {
    let out = Out::default().put([tag]);
    match xid {
        Some(xid) => out.put(xid.to_be_bytes()),
        None => out,
    }
}

fn cells() -> impl Strategy<Value = Vec<Cell>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..30);
    let cell = prop_oneof![
        Just(Cell::Null),
        Just(Cell::Unchanged),
        bytes().prop_map(Cell::Text),
        bytes().prop_map(Cell::Binary),
    ];
    prop::collection::vec(cell, 0..12)
}

fn name() -> impl Strategy<Value = String> {
    "[^\\x00]{0,12}"
}

fn decoder(xid: Option<u32>) -> Decoder {
    let mut decoder = Decoder::new();
    if xid.is_some() {
        decoder.decode(b"S\0\0\0\x07\x01").unwrap();
    }
    decoder
}

fn same(tuple: Tuple<'_>, cells: &[Cell]) -> bool {
    tuple.len() == cells.len() && tuple.values().eq(cells.iter().map(Cell::value))
}

proptest! {
    #[test]
    fn rows_round_trip(xid: Option<u32>, oid: u32, a in cells(), b in cells(), full: bool) {
        let kind = if full { b'O' } else { b'K' };
        let old_is = |old| match old {
            Old::Key(t) => !full && same(t, &a),
            Old::Full(t) => full && same(t, &a),
        };
        let oid_bytes = oid.to_be_bytes();

        let bytes = out(b'I', xid).put(oid_bytes).row(b'N', &a).0;
        match decoder(xid).decode(&bytes).unwrap() {
            Message::Insert(m) => {
                prop_assert_eq!((m.xid, m.relation), (xid, oid));
                prop_assert!(same(m.new, &a));
            }
            other => prop_assert!(false, "{other:?}"),
        }

        let bytes = out(b'U', xid).put(oid_bytes).row(kind, &a).row(b'N', &b).0;
        match decoder(xid).decode(&bytes).unwrap() {
            Message::Update(m) => {
                prop_assert_eq!((m.xid, m.relation), (xid, oid));
                prop_assert!(old_is(m.old.unwrap()) && same(m.new, &b));
            }
            other => prop_assert!(false, "{other:?}"),
        }

        let bytes = out(b'D', xid).put(oid_bytes).row(kind, &a).0;
        match decoder(xid).decode(&bytes).unwrap() {
            Message::Delete(m) => prop_assert!(m.relation == oid && old_is(m.old)),
            other => prop_assert!(false, "{other:?}"),
        }
        // One byte less or more is no message.
        prop_assert!(decoder(xid).decode(&bytes[..bytes.len() - 1]).is_err());
        prop_assert!(decoder(xid).decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn relations_round_trip(
        xid: Option<u32>, oid: u32, schema in name(), table in name(),
        columns in prop::collection::vec((any::<bool>(), name(), any::<u32>(), any::<i32>()), 0..9),
    ) {
        let mut o = out(b'R', xid).put(oid.to_be_bytes()).str(&schema).str(&table)
            .put("f").put((columns.len() as u16).to_be_bytes());
        for (key, name, oid, modifier) in &columns {
            o = o.put([u8::from(*key)]).str(name).put(oid.to_be_bytes()).put(modifier.to_be_bytes());
        }
        match decoder(xid).decode(&o.0).unwrap() {
            Message::Relation(r) => {
                prop_assert_eq!((r.xid, r.oid, r.schema, r.name), (xid, oid, &*schema, &*table));
                prop_assert_eq!(r.identity, ReplicaIdentity::Full);
                prop_assert_eq!(r.len(), columns.len());
                let read: Vec<_> = r.columns()
                    .map(|c| (c.key, c.name.to_owned(), c.type_oid, c.type_modifier)).collect();
                prop_assert_eq!(read, columns);
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn truncates_and_messages_round_trip(
        xid: Option<u32>, oids: Vec<u32>, options in 0u8..4, lsn: u64, prefix in name(),
        content: Vec<u8>,
    ) {
        let mut o = out(b'T', xid).put((oids.len() as u32).to_be_bytes()).put([options]);
        for oid in &oids {
            o = o.put(oid.to_be_bytes());
        }
        match decoder(xid).decode(&o.0).unwrap() {
            Message::Truncate(t) => {
                prop_assert_eq!(t.relations().collect::<Vec<_>>(), oids);
                prop_assert_eq!(u8::from(t.cascade) | u8::from(t.restart_identity) << 1, options);
            }
            other => prop_assert!(false, "{other:?}"),
        }
        let o = out(b'M', xid).put([1]).put(lsn.to_be_bytes()).str(&prefix)
            .put((content.len() as u32).to_be_bytes()).put(&content);
        let expected = LogicalMessage {
            xid, transactional: true, lsn: Lsn::new(lsn), prefix: &prefix, content: &content,
        };
        prop_assert_eq!(decoder(xid).decode(&o.0).unwrap(), Message::Logical(expected));
    }

    #[test]
    fn transactions_round_trip(a: u64, b: u64, time: i64, xid: u32, sub: u32, gid in name()) {
        let commit = Commit { commit_lsn: Lsn::new(a), end_lsn: Lsn::new(b), commit_time: time };
        let (a_, b_, t_, x_) = (a.to_be_bytes(), b.to_be_bytes(), time.to_be_bytes(), xid.to_be_bytes());
        let both = |o: Out| o.put(a_).put(b_).put(t_);
        let prepared = Prepared { lsn: commit.commit_lsn, end_lsn: commit.end_lsn, time, xid, gid: &gid };
        let cases = [
            (out(b'B', None).put(a_).put(t_).put(x_),
             Message::Begin(Begin { commit_lsn: Lsn::new(a), commit_time: time, xid })),
            (both(out(b'C', None).put([0])), Message::Commit(commit)),
            (both(out(b'c', Some(xid)).put([0])), Message::StreamCommit { xid, commit }),
            (out(b'O', None).put(a_).str(&gid),
             Message::Origin(Origin { lsn: Lsn::new(a), name: &gid })),
            (out(b'A', Some(xid)).put(sub.to_be_bytes()),
             Message::StreamAbort(Abort { xid, subxid: sub, at: None })),
            (out(b'A', Some(xid)).put(sub.to_be_bytes()).put(a_).put(t_),
             Message::StreamAbort(Abort { xid, subxid: sub, at: Some((Lsn::new(a), time)) })),
            (both(out(b'b', None)).put(x_).str(&gid), Message::Prepared(PrepareKind::Begin, prepared)),
            (both(out(b'P', None).put([0])).put(x_).str(&gid),
             Message::Prepared(PrepareKind::Prepare, prepared)),
            (both(out(b'K', None).put([0])).put(x_).str(&gid),
             Message::Prepared(PrepareKind::Commit, prepared)),
            (both(out(b'p', None).put([0])).put(x_).str(&gid),
             Message::Prepared(PrepareKind::Stream, prepared)),
            (out(b'r', None).put([0]).put(a_).put(b_).put(t_).put(t_).put(x_).str(&gid),
             Message::RollbackPrepared(RolledBack {
                 prepare_end_lsn: Lsn::new(a), end_lsn: Lsn::new(b), prepare_time: time, time, xid,
                 gid: &gid,
             })),
        ];
        for (out, expected) in cases {
            prop_assert_eq!(Decoder::new().decode(&out.0).unwrap(), expected);
        }
    }

    #[test]
    fn garbage_never_panics(tag in prop::sample::select(b"BCORYIUDTMSEcAbPpKrNx".to_vec()),
                            tail: Vec<u8>, streamed: bool) {
        let bytes = [&[tag][..], &tail].concat();
        if let Ok(Message::Relation(r)) = decoder(streamed.then_some(7)).decode(&bytes) {
            prop_assert_eq!(r.columns().count(), r.len());
        }
        let _ = Decoder::new().decode(&tail);
    }
}

#[test]
fn blocks_begin_and_end() {
    let mut decoder = Decoder::new();
    assert!(decoder.decode(b"E").is_err());
    assert_eq!(
        decoder.decode(b"S\0\0\0\x07\x01"),
        Ok(Message::StreamStart {
            xid: 7,
            first: true
        })
    );
    assert!(decoder.decode(b"S\0\0\0\x07\0").is_err());
    assert_eq!(decoder.decode(b"E"), Ok(Message::StreamStop));
    assert!(decoder.decode(b"").is_err());
}

#[test]
fn counts_take_no_memory() {
    // Declares 32767 columns, or four billion relations, and has none.
    assert!(Decoder::new().decode(b"I\0\0\0\x01N\x7f\xff").is_err());
    assert!(Decoder::new().decode(b"I\0\0\0\x01N\xff\xff").is_err());
    assert!(Decoder::new().decode(b"T\xff\xff\xff\xff\0").is_err());
    assert!(
        Decoder::new()
            .decode(b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xff")
            .is_err()
    );
}
