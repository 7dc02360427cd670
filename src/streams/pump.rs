//! Reads segments of the log and turns them into batches.

mod large;

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::{
    LargeChanges, Request,
    batch::{Batch, Filled, TooLarge},
    encode::{self, RowChange},
    fault,
    feed::Output,
    note::{self, End, Note},
    position::{Position, Tokens},
    relation::Relations,
    session::Session,
    watch::Shared,
};
use crate::{
    domain::{Error, Reason, Result, change_stream},
    pb::v1::{ChangeBatch, Marker, ServerPosition, Truncate, change::Event},
    pg::{
        self, Lsn, ServerError,
        pgoutput::{self, Begin, Commit, Decoder, LogicalMessage, Message},
        replication::{Acknowledger, Item, ReplicationStream, Segment},
    },
};

/// How long to wait for more changes before an unfilled batch is sent, once nothing more has
/// arrived from the server. Without it, many small DATA frames would be sent, for which some
/// HTTP/2 peers close the connection.
const LINGER: Duration = Duration::from_millis(2);

/// Longest time that a change waits for its batch to fill while more changes arrive.
const OLDEST: Duration = Duration::from_millis(10);

/// A subscription that runs.
pub(super) struct Pump {
    stream: ReplicationStream,
    session: Session,
    relations: Relations,
    decoder: Decoder,
    batch: Batch,
    out: Output,
    tokens: Tokens,
    acknowledge: Acknowledge,
    /// The position to go on behind: what comes up to it was sent before.
    resume: Position,
    /// Whether the transaction at that position was begun in this call.
    begun: bool,
    /// The prefix of the watch's notes.
    notes: String,
    heartbeat: Duration,
    large: LargeChanges,
    /// When the next batch is to be sent at the latest: the heartbeat.
    due: Instant,
    /// When the first change of the batch arrived.
    oldest: Option<Instant>,
    transaction: Option<Transaction>,
    wal_end: Lsn,
    /// Everything before this position was sent, or is in the batch.
    position: Position,
    /// The element id of the row at hand: its memory is used again.
    element_id: String,
}

/// A transaction that is being read.
struct Transaction {
    begin: Begin,
    /// Whether its begin event was added. It is added right before the first event, so that
    /// transactions without events for this subscriber are not sent.
    open: bool,
    origin: String,
    events: u64,
    /// So many of its events were sent before.
    skip: u64,
    /// What notes in it ask for, once it has ended.
    markers: Vec<Marker>,
    end: Option<End>,
}

/// How the server learns what it may forget.
#[derive(Debug)]
pub(super) enum Acknowledge {
    /// A temporary slot: nobody can resume from it, so what was handed to the subscriber's queue
    /// is acknowledged at once, under a backlog too.
    Sent,
    /// A change stream: what is on record.
    Recorded(watch::Receiver<change_stream::Position>),
}

impl Pump {
    /// Over a stream from a slot. It goes on behind `resume`.
    pub(super) fn new(
        (stream, resume): (ReplicationStream, Position),
        session: Session,
        relations: Relations,
        request: &Request,
        (tokens, acknowledge, secret): (Tokens, Acknowledge, Uuid),
        out: Output,
    ) -> Self {
        Self {
            stream,
            session,
            relations,
            decoder: Decoder::new(),
            batch: Batch::new(request.max_batch_bytes),
            out,
            tokens,
            acknowledge,
            resume,
            begun: false,
            notes: note::prefix(secret),
            heartbeat: request.heartbeat,
            large: request.large_changes,
            due: Instant::now(),
            oldest: None,
            transaction: None,
            wal_end: resume.lsn,
            position: resume,
            element_id: String::new(),
        }
    }

    /// Runs until the stream ends or the subscriber is gone. The first batch is empty: it says
    /// that the slot has been created.
    pub(super) async fn run(&mut self, shared: &Shared) -> Result<()> {
        // Notes from before the slot are not in its stream.
        let end = {
            let state = shared.state.lock().await;
            self.relations.follow(state.followed.iter().copied());
            let roots = state.roots.iter();
            self.relations
                .belong(roots.map(|(leaf, root)| (*leaf, root.clone())));
            if !state.followed.is_empty() {
                let published = state.published.iter();
                self.relations
                    .publish(published.map(|(oid, all)| (*oid, *all)));
            }
            state.end.clone()
        };
        self.send(Filled::default()).await?;
        if let Some(end) = end {
            return Err(ended(end));
        }
        self.read(shared).await
    }

    /// Reads until the stream ends or the subscriber is gone.
    pub(super) async fn read(&mut self, shared: &Shared) -> Result<()> {
        let ended = self.follow(shared).await;
        // Changes that were decoded before the error are still correct: send them first.
        self.flush().await?;
        ended
    }

    /// Goes on with another connection, behind what was sent.
    pub(super) fn reconnect(&mut self, stream: ReplicationStream, session: Session) {
        self.stream = stream;
        self.session = session;
        self.decoder = Decoder::new();
        let open = self.transaction.take().is_some_and(|it| it.open);
        // A transaction may have been begun before and not reached again yet.
        self.begun = open || (self.begun && self.resume == self.position);
        self.resume = self.position;
    }

    /// Sends a heartbeat while there is no connection.
    pub(super) async fn beat(&mut self) -> Result<()> {
        match Instant::now() >= self.due {
            true => self.send(Filled::default()).await,
            false => Ok(()),
        }
    }

    async fn follow(&mut self, shared: &Shared) -> Result<()> {
        loop {
            let oldest = self.oldest.map(|at| at + OLDEST);
            let wake = oldest.map_or(self.due, |at| at.min(Instant::now() + LINGER));
            // Safe to cancel: a segment is returned whole or stays in the stream.
            let acknowledger = self.stream.acknowledger();
            let next = tokio::select! {
                biased;
                next = self.stream.next() => Some(next),
                () = recorded(&mut self.acknowledge, &acknowledger) => continue,
                () = sleep_until(wake) => None,
            };
            let idle = next.is_none();
            if let Some(next) = next {
                let segment = match next.unwrap_or(Err(pg::Error::Closed)) {
                    Ok(segment) => segment,
                    Err(error) => return Err(self.explain(error, shared).await),
                };
                self.take(segment).await?;
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
                self.send(Filled::default()).await?;
            }
        } else if idle || now >= *self.oldest.get_or_insert(now) + OLDEST {
            self.flush().await?;
        }
        if self.batch.is_empty() {
            self.acknowledge_sent();
        }
        Ok(())
    }

    fn acknowledge_sent(&self) {
        if let Acknowledge::Sent = self.acknowledge {
            self.stream.acknowledge(self.position.lsn);
        }
    }

    /// The error that ends the stream.
    async fn explain(&mut self, error: pg::Error, shared: &Shared) -> Error {
        match error {
            // Everything before it has been taken, so it belongs to this transaction.
            pg::Error::TooLarge { bytes, .. } => fault::too_large(bytes, None, self.commit_lsn()),
            other if fault::may_be_slot_lost(&other) => {
                let lost = shared.is_losing_slot() || self.retains_too_much().await;
                fault::of_running(other, lost)
            }
            other => fault::of_stream(other),
        }
    }

    /// Whether the slot retained more log than the server allows. A temporary slot is gone when
    /// its walsender is: only this tells why.
    async fn retains_too_much(&mut self) -> bool {
        let confirmed = self.stream.confirmed().to_string();
        let query = "select setting::numeric >= 0 and pg_current_wal_lsn() - $1::text::pg_lsn
                > setting::numeric * 1024 * 1024
            from pg_settings where name = 'max_slot_wal_keep_size'";
        let rows = self.session.query(query, &[&confirmed]).await;
        let rows = rows.unwrap_or_default();
        rows.first()
            .is_some_and(|row| row.try_get(0).unwrap_or(false))
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
                    transaction.origin = origin.name.to_string();
                }
            }
            Message::Commit(commit) => self.commit(&commit).await?,
            Message::Relation(relation) => self.relations.learn(&relation),
            Message::Type(named) => self.relations.learn_type(&named),
            Message::Insert(insert) => {
                self.row(insert.relation, &Image::Insert(insert.new))
                    .await?;
            }
            Message::Update(update) => {
                let image = Image::Update(update.old, update.new);
                self.row(update.relation, &image).await?;
            }
            Message::Delete(delete) => {
                self.row(delete.relation, &Image::Delete(delete.old))
                    .await?;
            }
            Message::Truncate(truncate) => self.truncate(&truncate).await?,
            Message::Logical(message) => self.logical(&message).await?,
            // Protocol 1 sends no other messages.
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, begin: Begin) {
        let resume = self.resume;
        let (skip, open) = match begin.commit_lsn.cmp(&resume.lsn) {
            std::cmp::Ordering::Less => (u64::MAX, false),
            std::cmp::Ordering::Equal => (resume.events, self.begun),
            std::cmp::Ordering::Greater => (0, false),
        };
        self.transaction = Some(Transaction {
            begin,
            open,
            origin: String::new(),
            events: 0,
            skip,
            markers: Vec::new(),
            end: None,
        });
    }

    async fn commit(&mut self, commit: &Commit) -> Result<()> {
        let Some(transaction) = self.transaction.take() else {
            return Err(fault::malformed("a commit outside a transaction"));
        };
        if transaction.open {
            let xid = transaction.begin.xid;
            let event = Event::Commit(encode::commit(xid, commit, transaction.origin));
            self.add(event, 0).await?;
        }
        let before = transaction.begin.commit_lsn < self.resume.lsn;
        self.reach(Position::at(commit.end_lsn));
        // They were sent before, too.
        let markers = transaction.markers.into_iter().filter(|_| !before);
        for marker in markers {
            self.add(Event::Marker(marker), 0).await?;
        }
        transaction.end.map_or(Ok(()), |end| Err(ended(end)))
    }

    async fn row(&mut self, oid: u32, image: &Image<'_>) -> Result<()> {
        if self.is_behind()? {
            return self.count();
        }
        self.announce_schema(oid).await?;
        let ordinal = self.next_ordinal().await?;
        let mut id = std::mem::take(&mut self.element_id);
        let added = {
            let table = self.relations.get(oid)?;
            let row = match image {
                Image::Insert(new) => RowChange::insert(table, new, &mut id),
                Image::Update(old, new) => RowChange::update(table, old.as_ref(), new, &mut id),
                Image::Delete(old) => RowChange::delete(table, old, &mut id),
            };
            match self.batch.add_row(&row, ordinal) {
                Ok(full) => Ok(full),
                Err(TooLarge { bytes }) => Err(large::Large::of_row(oid, bytes, &row, self.large)),
            }
        };
        self.element_id = id;
        match added {
            Ok(None) => {}
            Ok(Some(full)) => self.send(full).await?,
            Err(large) => self.add_large(large, ordinal).await?,
        }
        self.count()
    }

    async fn truncate(&mut self, truncate: &pgoutput::Truncate<'_>) -> Result<()> {
        if self.is_behind()? {
            return self.count();
        }
        let mut schema_ids = Vec::new();
        for oid in truncate.relations() {
            self.announce_schema(oid).await?;
            schema_ids.push(self.relations.get(oid)?.schema.schema_id);
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
        if message.prefix.0.starts_with(note::RESERVED) {
            self.note(message);
            return Ok(());
        }
        if message.transactional && self.is_behind()? {
            return self.count();
        }
        let event = Event::Message(encode::message(message));
        if message.transactional {
            return self.event(event).await;
        }
        // It belongs to no transaction, and is an event of its own between two of them.
        let position = Position {
            lsn: message.lsn,
            events: 1,
        };
        if position > self.resume {
            self.add(event, 0).await?;
            self.reach(position);
        }
        Ok(())
    }

    /// Whether the next event of the transaction was sent before.
    fn is_behind(&mut self) -> Result<bool> {
        let transaction = transaction(&mut self.transaction)?;
        Ok(transaction.events < transaction.skip)
    }

    /// Takes a note of the watch. Those of other subscriptions mean nothing here.
    fn note(&mut self, message: &LogicalMessage<'_>) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        if message.prefix.0 != self.notes.as_bytes() {
            return;
        }
        let Some(note) = Note::read(message.content) else {
            return;
        };
        self.relations.follow(note.followed);
        self.relations.belong(note.roots);
        self.relations.publish(note.published);
        let markers = note.markers.into_iter().map(note::Seen::marker);
        transaction.markers.extend(markers);
        transaction.end = transaction.end.take().or(note.end);
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

    /// Opens the transaction; answers the ordinal of its next event.
    async fn next_ordinal(&mut self) -> Result<u64> {
        self.open().await?;
        Ok(transaction(&mut self.transaction)?.events + 1)
    }

    /// Adds an event of the transaction that has an ordinal.
    async fn event(&mut self, event: Event) -> Result<()> {
        let ordinal = self.next_ordinal().await?;
        self.add(event, ordinal).await?;
        self.count()
    }

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
        match self.batch.add(event.clone(), ordinal) {
            Ok(Some(full)) => self.send(full).await,
            Ok(None) => Ok(()),
            Err(TooLarge { bytes }) => {
                let large = large::Large::of_event(event, bytes, self.large);
                self.add_large(large, ordinal).await
            }
        }
    }

    async fn flush(&mut self) -> Result<()> {
        match self.batch.take() {
            Some(batch) => self.send(batch).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, filled: Filled) -> Result<()> {
        let around = ChangeBatch {
            resume_token: self.tokens.of(self.position),
            server_position: Some(ServerPosition {
                server_wal_end: self.wal_end.get(),
                received: self.stream.received().get(),
                sent: self.position.lsn.get(),
                acknowledged: self.stream.confirmed().get(),
            }),
            send_time: Some(now()),
            ..ChangeBatch::default()
        };
        self.out.send_at(filled.seal(around), self.position).await?;
        self.due = Instant::now() + self.heartbeat;
        self.oldest = None;
        self.acknowledge_sent();
        Ok(())
    }
}

/// Tells the server what is on record, when that rises.
async fn recorded(acknowledge: &mut Acknowledge, stream: &Acknowledger) {
    let Acknowledge::Recorded(recorded) = acknowledge else {
        return std::future::pending().await;
    };
    match recorded.changed().await {
        Ok(()) => stream.acknowledge(Lsn::new(recorded.borrow_and_update().lsn)),
        // The process ends.
        Err(_) => std::future::pending().await,
    }
}

/// A change of a row in the log.
enum Image<'a> {
    Insert(pgoutput::Tuple<'a>),
    Update(Option<pgoutput::Old<'a>>, pgoutput::Tuple<'a>),
    Delete(pgoutput::Old<'a>),
}

fn transaction(open: &mut Option<Transaction>) -> Result<&mut Transaction> {
    open.as_mut()
        .ok_or_else(|| fault::malformed("a change outside a transaction"))
}

/// The error that a note ends the stream with.
fn ended(end: End) -> Error {
    Error::new(end.reason(), end.message).with_resource(end.name)
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
