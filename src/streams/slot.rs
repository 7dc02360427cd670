//! Creates the temporary slot of a subscription and starts the stream from it.

use std::time::Duration;

use prost_types::Timestamp;

use super::{
    Feed, Request, Source, fault, feed,
    position::{Position, Tokens},
    preflight::{self, Database},
    publication,
    pump::{Acknowledge, Pump},
    relation::Relations,
    session::Session,
    watch::Watch,
};
use crate::{
    domain::{Error, Result},
    pb::v1::{ChangeBatch, change_batch::WaitingFor},
    pg::{
        Lsn,
        replication::{
            Canceller, Connection, Limits, Options, Origins, ReplicationStream, SlotOptions,
            Snapshot, StartOptions, Streaming,
        },
    },
};

/// Longest wait for a connection.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Time after which the server ends a connection without feedback (`wal_sender_timeout`). Set
/// for our session, so that our interval of feedback fits it whatever the server's value is.
pub(super) const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that are buffered for a subscriber before reading from the server pauses.
pub(super) const BUFFER: usize = 4 << 20;

/// Largest message that is read from the server, in bytes. A change that fits here and not
/// into a batch is refused with CHANGE_TOO_LARGE when it is decoded.
pub(super) const LARGEST_MESSAGE: usize = 64 << 20;

/// A subscription whose tables were checked and whose publications exist.
#[derive(Debug)]
pub struct Opening {
    connection: Connection,
    session: Session,
    watcher: Session,
    database: Database,
    published: publication::Published,
    request: Request,
    source: Source,
}

impl Opening {
    /// Checks the tables, creates the publications and connects for replication. Nothing is
    /// created before `confirmed`, which is awaited with a connection to the server.
    ///
    /// # Errors
    /// UNIMPLEMENTED before PostgreSQL 15; TABLE_NOT_FOUND, PUBLICATION_NOT_FOUND,
    /// DATABASE_NOT_FOUND, LOGICAL_DECODING_OFF, RIGHT_MISSING, LOCK_TIMEOUT, SLOTS_EXHAUSTED,
    /// SERVER_UNAVAILABLE; what `confirmed` fails with.
    pub async fn prepare(
        source: Source,
        request: Request,
        confirmed: impl Future<Output = Result<()>>,
    ) -> Result<Self> {
        let mut session = Session::connect(&source).await.map_err(fault::of_setup)?;
        let publication = request.publication.as_ref();
        let database = preflight::look(&mut session, &request.tables, publication).await?;
        confirmed.await?;
        let published = publication::prepare(&mut session, &request, &source, &database).await?;
        let watcher = Session::connect(&source).await.map_err(fault::of_setup)?;
        let options = Options {
            // The sweep of dead subscriptions finds the walsender by this name.
            application_name: source.slot.clone(),
            client_encoding: database.encoding.0.to_owned(),
            wal_sender_timeout: WAL_SENDER_TIMEOUT,
        };
        let connection =
            Connection::connect(&source.target, &source.login, options, CONNECT_LIMIT).await;
        let connection = connection.map_err(fault::of_slot)?;
        Ok(Self {
            connection,
            session,
            watcher,
            database,
            published,
            request,
            source,
        })
    }

    /// Creates the slot and sends changes from it, until `stop` returns the reason to end.
    /// While the server waits for transactions before it creates the slot, batches name those
    /// transactions. `guard` is dropped when no connection of the subscription is left.
    #[must_use]
    pub fn run(
        self,
        stop: impl Future<Output = Error> + Send + 'static,
        guard: impl Send + 'static,
    ) -> Feed {
        Feed::start(move |out| self.feed(out), stop, guard)
    }

    async fn feed(self, mut out: feed::Output) -> Result<()> {
        let Self {
            connection,
            mut session,
            watcher,
            database,
            published,
            request,
            source,
        } = self;
        let encoding = database.encoding;
        let watch = Watch::new(watcher, &source, &request, database).await;
        let shared = watch.shared();
        let streaming = async {
            let canceller = connection.canceller().map(CancelOnDrop::new);
            let making = start(connection, &source, &request, &published);
            let (stream, made) = wait(making, &mut session, &request, &mut out).await?;
            canceller.into_iter().for_each(CancelOnDrop::disarm);
            publication::check(&mut session, &published).await?;
            let relations = Relations::new(request.key_columns.clone(), encoding);
            let kind = (
                Tokens::Temporary(source.uid),
                Acknowledge::Sent,
                source.secret,
            );
            let begin = (stream, Position::at(made));
            let mut pump = Pump::new(begin, session, relations, &request, kind, out);
            pump.run(&shared).await
        };
        // The watch begins before the slot exists: the publications already affect the
        // application's UPDATEs, and creating the slot can take minutes.
        tokio::select! {
            ended = streaming => ended,
            never = watch.run() => match never {},
        }
    }
}

async fn start(
    mut connection: Connection,
    source: &Source,
    request: &Request,
    published: &publication::Published,
) -> Result<(ReplicationStream, Lsn)> {
    let slot = SlotOptions {
        temporary: true,
        snapshot: Snapshot::Nothing,
        ..SlotOptions::default()
    };
    let made = connection
        .create_slot(&source.slot, &slot)
        .await
        .map_err(fault::of_slot)?;
    let options = StartOptions {
        slot: source.slot.clone(),
        start: made.consistent_point,
        protocol: 1,
        publications: published.names.clone(),
        messages: true,
        binary: request.binary,
        streaming: Streaming::Off,
        two_phase: false,
        origins: Origins::Any,
    };
    let limits = Limits {
        buffer: BUFFER,
        message: LARGEST_MESSAGE,
        ..Limits::default()
    };
    let stream = connection.start(&options, limits).await;
    Ok((stream.map_err(fault::of_slot)?, made.consistent_point))
}

/// Waits until the slot is created. Meanwhile it sends the subscriber the transactions that the
/// server waits for.
async fn wait<T>(
    making: impl Future<Output = Result<T>>,
    session: &mut Session,
    request: &Request,
    out: &mut feed::Output,
) -> Result<T> {
    tokio::pin!(making);
    loop {
        tokio::select! {
            made = &mut making => return made,
            () = tokio::time::sleep(request.heartbeat) => {}
        }
        let waiting_for = waiting_for(session).await?;
        // A batch without any would mean that the slot has been created.
        if waiting_for.is_empty() {
            continue;
        }
        let batch = ChangeBatch {
            waiting_for,
            ..ChangeBatch::default()
        };
        out.send(batch.into()).await?;
    }
}

async fn waiting_for(session: &mut Session) -> Result<Vec<WaitingFor>> {
    let rows = session
        .query(
            "select backend_xid::text::bigint, datname::text, '' as gid,
                extract(epoch from xact_start)::float8
             from pg_stat_activity where backend_xid is not null
             union all
             select transaction::text::bigint, database::text, gid,
                extract(epoch from prepared)::float8 from pg_prepared_xacts
             order by 4 limit 100",
            &[],
        )
        .await
        .map_err(fault::of_setup)?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        let seconds: f64 = preflight::get::<Option<f64>>(row, 3)?.unwrap_or_default();
        found.push(WaitingFor {
            xid: u32::try_from(preflight::get::<i64>(row, 0)?).unwrap_or_default(),
            database: preflight::get::<Option<String>>(row, 1)?.unwrap_or_default(),
            gid: preflight::get(row, 2)?,
            #[expect(clippy::cast_possible_truncation, reason = "seconds of this century")]
            start_time: Some(Timestamp {
                seconds: seconds as i64,
                nanos: 0,
            }),
        });
    }
    Ok(found)
}

/// Cancels the creation of a slot when it is dropped. A walsender that creates a slot does not
/// notice that its client has disconnected.
struct CancelOnDrop(Option<Canceller>);

impl CancelOnDrop {
    fn new(canceller: Canceller) -> Self {
        Self(Some(canceller))
    }

    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some(canceller) = self.0.take() else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        // Bounded in time. If it fails, the sweep of dead subscriptions ends the walsender.
        runtime.spawn(async move {
            if let Err(error) = canceller.cancel(CONNECT_LIMIT).await {
                tracing::warn!(%error, "cannot cancel the creation of a slot");
            }
        });
    }
}
