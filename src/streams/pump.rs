//! Reads segments of the log and turns them into batches.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{
    Request, Source,
    batch::{Batch, TooLarge},
    encode, fault,
    feed::Output,
    position::Position,
    relation::{Known, Relations},
    session::Session,
};
use crate::{
    domain::{Error, Reason, Result},
    pb::v1::{ChangeBatch, RowChange, ServerPosition, Truncate, change::Event},
    pg::{
        self, Lsn, ServerError,
        pgoutput::{self, Begin, Commit, Decoder, LogicalMessage, Message},
        replication::{Item, ReplicationStream, Segment},
    },
};

/// How long to wait for more changes before an unfilled batch is sent, once nothing more has
/// arrived from the server. Without it, many small DATA frames would be sent, for which some
/// HTTP/2 peers close the connection.
const LINGER: Duration = Duration::from_millis(2);

/// Longest time that a change waits for its batch to fill while more changes arrive.
const OLDEST: Duration = Duration::from_millis(10);

/// A subscription that runs.
pub(super) struct Pump<'a> {
    stream: ReplicationStream,
    session: Session,
    relations: Relations,
    decoder: Decoder,
    batch: Batch,
    out: Output,
    source: &'a Source,
    heartbeat: Duration,
    /// When the next batch is to be sent at the latest: the heartbeat.
    due: Instant,
    /// When the first change of the batch arrived.
    oldest: Option<Instant>,
    transaction: Option<Transaction>,
    wal_end: Lsn,
    /// Everything before this position was sent, or is in the batch.
    position: Position,
}

/// A transaction that is being read.
struct Transaction {
    begin: Begin,
    /// Whether its begin event was added. It is added right before the first event, so that
    /// transactions without events for this subscriber are not sent.
    open: bool,
    origin: String,
    events: u64,
}

impl<'a> Pump<'a> {
    /// Over a stream from a slot that was made at `consistent_point`.
    pub(super) fn new(
        (stream, consistent_point): (ReplicationStream, Lsn),
        session: Session,
        relations: Relations,
        request: &Request,
        source: &'a Source,
        out: Output,
    ) -> Self {
        Self {
            stream,
            session,
            relations,
            decoder: Decoder::new(),
            batch: Batch::new(request.max_batch_bytes),
            out,
            source,
            heartbeat: request.heartbeat,
            due: Instant::now(),
            oldest: None,
            transaction: None,
            wal_end: consistent_point,
            position: Position::at(consistent_point),
        }
    }

    /// Runs until the stream ends or the subscriber is gone. The first batch is empty: it says
    /// that the slot has been created.
    pub(super) async fn run(mut self) -> Result<()> {
        self.send(ChangeBatch::default()).await?;
        let ended = self.follow().await;
        // Changes that were decoded before the error are still correct: send them first.
        self.flush().await?;
        ended
    }

    async fn follow(&mut self) -> Result<()> {
        loop {
            let oldest = self.oldest.map(|at| at + OLDEST);
            let wake = oldest.map_or(self.due, |at| at.min(Instant::now() + LINGER));
            // Safe to cancel: a segment is returned whole or stays in the stream.
            let next = tokio::select! {
                biased;
                next = self.stream.next() => Some(next),
                () = sleep_until(wake) => None,
            };
            let idle = next.is_none();
            if let Some(next) = next {
                self.take(self.segment(next)?).await?;
            }
            self.send_due(idle).await?;
        }
    }

    /// Sends the batch if it is due, or a heartbeat. `idle`: nothing has arrived from the
    /// server within the linger time.
    async fn send_due(&mut self, idle: bool) -> Result<()> {
        let now = Instant::now();
        if self.batch.is_empty() {
            self.oldest = None;
            if now >= self.due {
                self.send(ChangeBatch::default()).await?;
            }
        } else if idle || now >= *self.oldest.get_or_insert(now) + OLDEST {
            self.flush().await?;
        }
        if self.batch.is_empty() {
            // The slot is temporary: nobody can resume from it, so a change that was handed to
            // the subscriber's queue is acknowledged at once.
            self.stream.acknowledge(self.position.lsn);
        }
        Ok(())
    }

    fn segment(&self, next: Option<Result<Segment, pg::Error>>) -> Result<Segment> {
        next.unwrap_or(Err(pg::Error::Closed))
            .map_err(|error| match error {
                // Everything before it has been taken, so it belongs to this transaction.
                pg::Error::TooLarge { bytes, .. } => {
                    fault::too_large(bytes, None, self.commit_lsn())
                }
                other => fault::of_stream(other),
            })
    }

    fn commit_lsn(&self) -> Option<Lsn> {
        let transaction = self.transaction.as_ref();
        transaction.map(|transaction| transaction.begin.commit_lsn)
    }

    async fn take(&mut self, segment: Segment) -> Result<()> {
        for item in segment.items() {
            match item {
                Item::Data(data) => {
                    self.wal_end = self.wal_end.max(data.lsn);
                    let message = self.decoder.decode(data.payload);
                    self.message(message.map_err(fault::malformed)?).await?;
                }
                Item::Keepalive { wal_end, .. } => {
                    self.wal_end = self.wal_end.max(wal_end);
                    if self.transaction.is_none() {
                        self.reach(Position::at(wal_end));
                    }
                }
                Item::Notice(notice) => refuse_skipped_publication(&notice)?,
            }
        }
        Ok(())
    }

    async fn message(&mut self, message: Message<'_>) -> Result<()> {
        match message {
            Message::Begin(begin) => self.begin(begin),
            Message::Origin(origin) => {
                if let Some(transaction) = &mut self.transaction {
                    origin.name.clone_into(&mut transaction.origin);
                }
            }
            Message::Commit(commit) => self.commit(&commit).await?,
            Message::Relation(relation) => self.relations.learn(&relation),
            Message::Insert(insert) => {
                let row = |table: &Known| encode::insert(table, &insert.new);
                self.row(insert.relation, row).await?;
            }
            Message::Update(update) => {
                let row = |table: &Known| encode::update(table, update.old.as_ref(), &update.new);
                self.row(update.relation, row).await?;
            }
            Message::Delete(delete) => {
                let row = |table: &Known| encode::delete(table, &delete.old);
                self.row(delete.relation, row).await?;
            }
            Message::Truncate(truncate) => self.truncate(&truncate).await?,
            Message::Logical(message) => self.logical(&message).await?,
            // The names of types. Protocol 1 sends no other messages.
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, begin: Begin) {
        self.transaction = Some(Transaction {
            begin,
            open: false,
            origin: String::new(),
            events: 0,
        });
    }

    async fn commit(&mut self, commit: &Commit) -> Result<()> {
        let ended = self.transaction.take();
        if let Some(Transaction { begin, origin, .. }) = ended.filter(|ended| ended.open) {
            let event = Event::Commit(encode::commit(begin.xid, commit, origin));
            self.add(event, 0).await?;
        }
        self.reach(Position::at(commit.end_lsn));
        Ok(())
    }

    async fn row(&mut self, oid: u32, row: impl FnOnce(&Known) -> RowChange) -> Result<()> {
        if !self.relations.wants(oid) {
            return self.count();
        }
        self.announce_schema(oid).await?;
        let event = Event::Row(row(self.relations.get(oid)?));
        self.event(event).await
    }

    async fn truncate(&mut self, truncate: &pgoutput::Truncate<'_>) -> Result<()> {
        let mut schema_ids = Vec::new();
        for oid in truncate.relations() {
            if self.relations.wants(oid) {
                self.announce_schema(oid).await?;
                schema_ids.push(self.relations.get(oid)?.schema.schema_id);
            }
        }
        if schema_ids.is_empty() {
            return self.count();
        }
        let (cascade, restart_identity) = (truncate.cascade, truncate.restart_identity);
        self.event(Event::Truncate(Truncate {
            schema_ids,
            cascade,
            restart_identity,
        }))
        .await
    }

    async fn logical(&mut self, message: &LogicalMessage<'_>) -> Result<()> {
        let event = Event::Message(encode::message(message));
        if message.transactional {
            return self.event(event).await;
        }
        // It belongs to no transaction, and is an event of its own between two of them.
        self.add(event, 0).await?;
        self.reach(Position::at(message.lsn));
        Ok(())
    }

    /// Adds the table's schema event, if the subscriber does not have its newest schema.
    async fn announce_schema(&mut self, oid: u32) -> Result<()> {
        if self.relations.is_announced(oid) {
            return Ok(());
        }
        if let Some(schema) = self.relations.settle(oid, &mut self.session).await? {
            self.open().await?;
            self.add(Event::Schema(schema), 0).await?;
        }
        Ok(())
    }

    /// Adds the transaction's begin event, if this is its first event.
    async fn open(&mut self) -> Result<()> {
        let transaction = transaction(&mut self.transaction)?;
        if transaction.open {
            return Ok(());
        }
        transaction.open = true;
        let begin = transaction.begin;
        self.add(Event::Begin(encode::begin(&begin)), 0).await?;
        self.reach(Position::at(begin.commit_lsn));
        Ok(())
    }

    /// Adds an event of the transaction that has an ordinal.
    async fn event(&mut self, event: Event) -> Result<()> {
        self.open().await?;
        let ordinal = transaction(&mut self.transaction)?.events + 1;
        self.add(event, ordinal).await?;
        self.count()
    }

    /// Counts an event of the transaction, also one that is not for this subscriber, so that
    /// ordinals do not depend on what is asked for.
    fn count(&mut self) -> Result<()> {
        let transaction = transaction(&mut self.transaction)?;
        transaction.events += 1;
        let (lsn, events) = (transaction.begin.commit_lsn, transaction.events);
        self.reach(Position { lsn, events });
        Ok(())
    }

    fn reach(&mut self, position: Position) {
        self.position = self.position.max(position);
    }

    /// Adds an event to the batch. A batch that has no room for it is sent first.
    async fn add(&mut self, event: Event, ordinal: u64) -> Result<()> {
        let schema_id = match &event {
            Event::Row(row) => Some(row.schema_id),
            _ => None,
        };
        match self.batch.add(event, ordinal) {
            Ok(Some(full)) => self.send(full).await,
            Ok(None) => Ok(()),
            Err(TooLarge { bytes }) => {
                let table = schema_id.and_then(|id| self.relations.name(id));
                Err(fault::too_large(bytes, table.as_deref(), self.commit_lsn()))
            }
        }
    }

    async fn flush(&mut self) -> Result<()> {
        match self.batch.take() {
            Some(batch) => self.send(batch).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, mut batch: ChangeBatch) -> Result<()> {
        batch.resume_token = self.position.token(self.source.uid);
        batch.server_position = Some(ServerPosition {
            server_wal_end: self.wal_end.get(),
            received: self.stream.received().get(),
            sent: self.position.lsn.get(),
            acknowledged: self.stream.confirmed().get(),
        });
        batch.send_time = Some(now());
        self.out.send(batch).await?;
        self.due = Instant::now() + self.heartbeat;
        self.oldest = None;
        Ok(())
    }
}

fn transaction(open: &mut Option<Transaction>) -> Result<&mut Transaction> {
    open.as_mut()
        .ok_or_else(|| fault::malformed("a change outside a transaction"))
}

/// Fails when the server has skipped a publication. From PostgreSQL 18 on, a missing
/// publication is a warning, and the stream goes on without its changes.
fn refuse_skipped_publication(notice: &ServerError) -> Result<()> {
    // Also by SQLSTATE, since the text may be translated.
    let skipped = notice.severity == "WARNING" && notice.code == "55000";
    if skipped || notice.message.contains("skipped loading publication") {
        let message = "a publication of the stream was dropped: changes were lost";
        return Err(Error::new(Reason::PublicationLost, message));
    }
    Ok(())
}

fn now() -> prost_types::Timestamp {
    use crate::domain::clock::{Clock, SystemClock};
    let now = SystemClock.now();
    let nanos = i32::try_from(now.timestamp_subsec_nanos()).unwrap_or_default();
    prost_types::Timestamp {
        seconds: now.timestamp(),
        nanos,
    }
}
