//! Watches what the log does not say: that a table lost or regained its replica identity, that
//! its rows were written anew, that partitions came and went, that another table has its name,
//! and that a publication was changed.
//!
//! It polls the catalogs, so that it knows only between which two positions of the log something
//! happened. What it finds it writes into the log (`note`).

mod named;
mod tables;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::Mutex;

use self::{named::Named, tables::Tables};
use super::{
    Request, Source,
    catalog::Encoding,
    fault,
    note::{End, Note, Root},
    preflight::{Database, get},
    session::Session,
};
use crate::{domain::Result, pg::Lsn};

/// Time between two looks. While a table without replica identity is published with its
/// updates, the application's UPDATEs of it fail.
const INTERVAL: Duration = Duration::from_millis(500);

/// What the watch has found out, for the pump to begin with.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Tables and partitions by oid, and whether all of their events are published.
    pub(super) published: HashMap<u32, bool>,
    /// The tables that are followed.
    pub(super) followed: Vec<u32>,
    /// The tables that partitions belong to.
    pub(super) roots: HashMap<u32, Root>,
    /// Why the stream has to end.
    pub(super) end: Option<End>,
}

/// What the watch shares with the pump. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    /// Locked while a note is written: whoever reads it then knows of all notes in the log up to
    /// that moment.
    pub(super) state: Arc<Mutex<State>>,
    /// Whether the server was about to give up the slot at the last look.
    losing_slot: Arc<AtomicBool>,
}

impl Shared {
    /// Whether the server was about to give up the slot when it was last looked at.
    pub(super) fn is_losing_slot(&self) -> bool {
        self.losing_slot.load(Ordering::Relaxed)
    }
}

/// What is watched.
#[derive(Debug)]
enum Watched {
    Tables(Tables),
    Named(Named),
}

/// A watch over what one subscription follows.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    session: Session,
    source: &'a Source,
    shared: Shared,
    watched: Watched,
}

impl<'a> Watch<'a> {
    /// Over what a request asks for, as it was found and published.
    pub(super) async fn new(
        session: Session,
        source: &'a Source,
        request: &Request,
        database: Database,
    ) -> Self {
        let shared = Shared::default();
        let watched = match &request.publication {
            Some(publication) => Watched::Named(Named::new(publication, request.on_change)),
            None => {
                let tables = Tables::new(source, request, &database);
                tables.begin(&mut *shared.state.lock().await);
                Watched::Tables(tables)
            }
        };
        Self {
            session,
            source,
            shared,
            watched,
        }
    }

    /// Over a change stream, whose publications were made before.
    pub(super) async fn resume(
        mut session: Session,
        source: &'a Source,
        request: &Request,
        encoding: Encoding,
    ) -> Result<Self> {
        let shared = Shared::default();
        let watched = match &request.publication {
            Some(publication) => Watched::Named(Named::new(publication, request.on_change)),
            None => {
                let tables = Tables::resume(&mut session, source, request, encoding).await?;
                tables.begin(&mut *shared.state.lock().await);
                Watched::Tables(tables)
            }
        };
        Ok(Self {
            session,
            source,
            shared,
            watched,
        })
    }

    /// What it shares with the pump.
    pub(super) fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Runs as long as the stream, also while the subscriber does not read.
    pub(super) async fn run(mut self) -> Infallible {
        let mut failing = false;
        loop {
            match self.look().await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    let detail = error.internal_detail();
                    tracing::warn!(%error, detail, "cannot watch the tables of a stream");
                }
                Err(_) => {}
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn look(&mut self) -> Result<()> {
        self.look_at_slot().await?;
        let (session, before) = (&mut self.session, Lsn::ZERO);
        let mut log = Log {
            session,
            source: self.source,
            shared: &self.shared,
            begun: before,
            now: before,
        };
        log.begun = log.position().await?;
        match &mut self.watched {
            Watched::Tables(tables) => tables.look(&mut log).await,
            Watched::Named(named) => named.look(&mut log).await,
        }
    }

    /// A temporary slot is gone with its walsender: only what was seen before tells why.
    async fn look_at_slot(&mut self) -> Result<()> {
        let query = "select coalesce(wal_status in ('unreserved', 'lost'), false)
            from pg_replication_slots where slot_name = $1";
        let rows = self.session.query(query, &[&self.source.slot]).await;
        if let Some(row) = rows.map_err(fault::of_setup)?.first() {
            let losing = get(row, 0)?;
            self.shared.losing_slot.store(losing, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The server's log, as the watch reads and writes it.
struct Log<'a> {
    session: &'a mut Session,
    source: &'a Source,
    shared: &'a Shared,
    /// Its end before the look: what is found later was not there yet.
    begun: Lsn,
    /// Its end after the look.
    now: Lsn,
}

impl Log<'_> {
    async fn position(&mut self) -> Result<Lsn> {
        let query = "select pg_current_wal_lsn()::text";
        let rows = self.session.query(query, &[]).await;
        let rows = rows.map_err(fault::of_setup)?;
        let text: Option<&str> = rows.first().map(|row| get(row, 0)).transpose()?;
        let position = text.and_then(|text| text.parse().ok());
        position.ok_or_else(|| fault::malformed("no position of the log"))
    }

    /// Runs statements and writes a note, in one transaction.
    async fn write(&mut self, statements: &[String], note: &Note) -> Result<()> {
        let mut sql = String::from("begin");
        for statement in statements {
            sql.push_str(";\n");
            sql.push_str(statement);
        }
        sql.push_str(";\n");
        sql.push_str(&note.statement(self.source.secret));
        sql.push_str(";\ncommit");
        let mut state = self.shared.state.lock().await;
        self.session.run(&sql).await.map_err(fault::of_setup)?;
        state.published.extend(note.published.iter().copied());
        state.followed.extend(note.followed.iter().copied());
        state.roots.extend(note.roots.iter().cloned());
        state.end = state.end.take().or_else(|| note.end.clone());
        Ok(())
    }

    /// The transactions that are open now.
    async fn open_transactions(&mut self) -> Result<Vec<u32>> {
        let query = "select (xid::text::numeric % 4294967296)::int8
            from pg_snapshot_xip(pg_current_snapshot()) as xid";
        let rows = self.session.query(query, &[]).await;
        let rows = rows.map_err(fault::of_setup)?;
        let xid = |row| Ok(u32::try_from(get::<i64>(row, 0)?).unwrap_or_default());
        rows.iter().map(xid).collect()
    }
}
