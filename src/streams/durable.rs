//! Reads a change stream: from a permanent slot, again and again until its subscriber is gone.
//!
//! The server may go away at any time. The same call goes on then, behind the last batch that was
//! sent: the slot sends the log again from what is acknowledged, and what was sent is left out.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tokio_postgres::Row;

use super::{
    Feed, Request, Source, fault,
    feed::Output,
    position::{Position, Tokens},
    preflight::{self, Database, get},
    pump::{Acknowledge, Pump},
    relation::Relations,
    session::Session,
    slot::{BUFFER, CONNECT_LIMIT, LARGEST_MESSAGE, WAL_SENDER_TIMEOUT},
    watch::Watch,
};
use crate::{
    domain::{
        Error, Reason, Result,
        change_stream::{self, Log},
    },
    pg::{
        Lsn,
        replication::{
            Connection, Limits, Options, Origins, ReplicationStream, StartOptions, Streaming,
        },
    },
};

/// Shortest and longest pause before the server is connected to again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often a heartbeat may be due while there is no connection.
const LOOK: Duration = Duration::from_millis(100);

/// A change stream to read from.
#[derive(Debug)]
pub struct Durable {
    /// Where its slot is, and the stream's unique id.
    pub source: Source,
    /// The publications that it is read through.
    pub publications: Vec<String>,
    /// The log that its positions are in.
    pub log: Log,
    /// Hash of its options, for its tokens.
    pub options: u32,
    /// What is on record as acknowledged, now and later.
    pub recorded: watch::Receiver<change_stream::Position>,
    /// Where to go on; none: behind what is acknowledged.
    pub resume: Option<change_stream::Position>,
    /// Whether another session may be ended that reads from the slot.
    pub take_over: bool,
}

/// Reads a change stream until `stop` returns the reason to end. `confirmed` is awaited before
/// each connection: it says whether the stream is still this process's. `guard` is dropped when
/// no connection is left.
pub fn follow<C, F>(
    durable: Durable,
    request: Request,
    confirmed: C,
    stop: impl Future<Output = Error> + Send + 'static,
    guard: impl Send + 'static,
) -> Feed
where
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let confirmed = Arc::new(confirmed);
    Feed::start(
        move |out| Reader::new(durable, request).run(confirmed, out),
        stop,
        guard,
    )
}

struct Reader {
    durable: Durable,
    request: Request,
    pump: Option<Pump>,
}

impl Reader {
    fn new(durable: Durable, request: Request) -> Self {
        Self {
            durable,
            request,
            pump: None,
        }
    }

    async fn run<C, F>(mut self, confirmed: Arc<C>, out: Output) -> Result<()>
    where
        C: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (mut pause, mut out) = (PAUSES.0, Some(out));
        loop {
            let ended = match self.connect(&*confirmed).await {
                Ok((stream, session, database)) => {
                    pause = PAUSES.0;
                    self.read(stream, session, database, &mut out).await
                }
                Err(error) => Err(error),
            };
            match ended {
                Err(error) if is_away(&error) => {
                    let detail = error.internal_detail();
                    tracing::info!(%error, detail, stream = %self.durable.source.uid, "a change stream is connected again");
                }
                ended => return ended,
            }
            self.rest(pause).await?;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Waits, with heartbeats.
    async fn rest(&mut self, pause: Duration) -> Result<()> {
        let mut left = pause;
        while !left.is_zero() {
            let step = left.min(LOOK);
            sleep(step).await;
            left -= step;
            if let Some(pump) = &mut self.pump {
                pump.beat().await?;
            }
        }
        Ok(())
    }

    /// Connects, and starts the stream from what is acknowledged.
    async fn connect<C, F>(
        &mut self,
        confirmed: &C,
    ) -> Result<(ReplicationStream, Session, Database)>
    where
        C: Fn() -> F,
        F: Future<Output = Result<()>>,
    {
        let source = &self.durable.source;
        let mut session = Session::connect(source).await.map_err(fault::of_setup)?;
        confirmed().await?;
        let publication = self.request.publication.as_ref();
        // A table that was dropped is the watch's business.
        let database = preflight::look(&mut session, &[], publication).await?;
        self.check(&mut session).await?;
        let options = Options {
            application_name: source.slot.clone(),
            client_encoding: database.encoding.0.to_owned(),
            wal_sender_timeout: WAL_SENDER_TIMEOUT,
        };
        let connection =
            Connection::connect(&source.target, &source.login, options, CONNECT_LIMIT).await;
        let connection = connection.map_err(fault::of_slot)?;
        let start = StartOptions {
            slot: source.slot.clone(),
            start: Lsn::new(self.durable.recorded.borrow().lsn),
            protocol: 1,
            publications: self.durable.publications.clone(),
            messages: true,
            binary: self.request.binary,
            streaming: Streaming::Off,
            two_phase: false,
            origins: Origins::Any,
        };
        let limits = Limits {
            buffer: BUFFER,
            message: LARGEST_MESSAGE,
            ..Limits::default()
        };
        let stream = connection.start(&start, limits).await;
        Ok((stream.map_err(fault::of_slot)?, session, database))
    }

    /// Reads until the connection ends, and watches the tables meanwhile.
    async fn read(
        &mut self,
        stream: ReplicationStream,
        session: Session,
        database: Database,
        out: &mut Option<Output>,
    ) -> Result<()> {
        let resume = self.resume();
        let Self {
            durable,
            request,
            pump,
        } = self;
        let source = &durable.source;
        let watcher = Session::connect(source).await.map_err(fault::of_setup)?;
        let watch = Watch::resume(watcher, source, request, database.encoding).await?;
        let shared = watch.shared();
        let reading = async {
            if let Some(pump) = pump {
                pump.reconnect(stream, session);
                return pump.read(&shared).await;
            }
            let Some(out) = out.take() else {
                return Err(Error::internal("a change stream was begun twice"));
            };
            let relations = Relations::new(request.key_columns.clone(), database.encoding);
            let kind = (
                Tokens::Durable(source.uid, durable.log, durable.options),
                Acknowledge::Recorded(durable.recorded.clone()),
                source.secret,
            );
            let begun = Pump::new((stream, resume), session, relations, request, kind, out);
            pump.insert(begun).run(&shared).await
        };
        tokio::select! {
            ended = reading => ended,
            never = watch.run() => match never {},
        }
    }

    /// Where to go on at first.
    fn resume(&self) -> Position {
        let acknowledged = *self.durable.recorded.borrow();
        self.durable.resume.unwrap_or(acknowledged).into()
    }

    /// Refuses a slot from which the stream cannot go on without a gap. The server moves a start
    /// that is too low ahead in silence, and skips what commits before one that is too high.
    async fn check(&self, session: &mut Session) -> Result<()> {
        let slot = self.durable.source.slot.as_str();
        let rows = session.query(SLOT, &[&slot]).await;
        let rows = rows.map_err(fault::of_setup)?;
        let row = rows
            .first()
            .ok_or_else(|| Error::internal("no row of a slot"))?;
        let found = Found::read(row)?;
        found.check(&self.durable.log)?;
        let position = match &self.pump {
            // Behind what is acknowledged nothing is asked for.
            Some(_) => None,
            None => Some(self.resume()),
        };
        if let Some(position) = position {
            let recorded = Position::from(*self.durable.recorded.borrow());
            found.reaches(position, recorded)?;
        }
        let Some(pid) = found.active_pid else {
            return Ok(());
        };
        if !found.ours && !self.durable.take_over {
            let message = "another session reads from the slot";
            return Err(Error::new(Reason::SlotInUse, message).with_retry_after(PAUSES.1));
        }
        // It is one of a process that does not have the stream any more.
        let end = "select pg_terminate_backend($1, 5000)";
        session.query(end, &[&pid]).await.map_err(fault::of_setup)?;
        Ok(())
    }
}

/// Whether the server may be there again after a while.
fn is_away(error: &Error) -> bool {
    matches!(
        error.reason(),
        Reason::StreamLost | Reason::ServerStopping | Reason::ServerUnavailable
    )
}

const SLOT: &str = "
    select (select system_identifier::text from pg_control_system()),
        (select timeline_id from pg_control_checkpoint()), pg_current_wal_flush_lsn()::text,
        s.confirmed_flush_lsn::text,
        coalesce(s.wal_status = 'lost', false), s.slot_name is not null, s.active_pid,
        coalesce(a.usename = current_user and a.application_name = $1, false)
    from (select 1) as one
    left join pg_replication_slots s on s.slot_name = $1
    left join pg_stat_activity a on a.pid = s.active_pid";

/// The slot as the server shows it.
struct Found {
    system_identifier: u64,
    timeline: u32,
    flushed: Lsn,
    confirmed: Lsn,
    lost: bool,
    there: bool,
    active_pid: Option<i32>,
    /// Whether a process of Howdah reads from it.
    ours: bool,
}

impl Found {
    fn read(row: &Row) -> Result<Self> {
        let lsn = |at| -> Result<Lsn> {
            let text: Option<&str> = get(row, at)?;
            Ok(text.and_then(|text| text.parse().ok()).unwrap_or_default())
        };
        let identifier: &str = get(row, 0)?;
        Ok(Self {
            system_identifier: identifier.parse().unwrap_or_default(),
            timeline: u32::try_from(get::<i32>(row, 1)?).unwrap_or_default(),
            flushed: lsn(2)?,
            confirmed: lsn(3)?,
            lost: get(row, 4)?,
            there: get(row, 5)?,
            active_pid: get(row, 6)?,
            ours: get(row, 7)?,
        })
    }

    fn check(&self, log: &Log) -> Result<()> {
        if (self.system_identifier, self.timeline) != (log.system_identifier, log.timeline) {
            let message = "the server is another one than that on which the slot was made";
            return Err(Error::new(Reason::TokenForeign, message));
        }
        if self.lost || !self.there {
            let message = "the server does not have the slot of the change stream any more";
            return Err(Error::new(Reason::SlotLost, message));
        }
        Ok(())
    }

    fn reaches(&self, position: Position, recorded: Position) -> Result<()> {
        if position.lsn < self.confirmed || position < recorded {
            let message = format!(
                "the log before {} is acknowledged: the stream cannot go on behind {}",
                self.confirmed.max(recorded.lsn),
                position.lsn
            );
            return Err(Error::new(Reason::TokenStale, message).with_field("resume_token"));
        }
        if position.lsn > self.flushed {
            let message = "the token is ahead of the end of the server's log";
            return Err(Error::new(Reason::TokenAhead, message).with_field("resume_token"));
        }
        Ok(())
    }
}
