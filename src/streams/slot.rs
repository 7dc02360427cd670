//! Makes the temporary slot of a subscription, and starts the stream from it.

use std::time::Duration;

use prost_types::Timestamp;

use super::{
    Feed, Request, Source, catalog::Catalog, fault, feed, identity, preflight, publication,
    pump::Pump, relation::Relations,
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
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// When the server gives a silent client up; set by us, so that feedback is timely.
const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that wait for a subscriber before reading stops.
const BUFFER: usize = 4 << 20;

/// Largest message from the server. A change of more than a batch can hold is
/// refused with its own reason as soon as it is decoded.
const LARGEST_MESSAGE: usize = 64 << 20;

/// A subscription whose tables were looked at and whose publications are there.
#[derive(Debug)]
pub struct Opening {
    connection: Connection,
    catalog: Catalog,
    watcher: Catalog,
    published: publication::Published,
    request: Request,
    source: Source,
}

impl Opening {
    /// Looks at the tables, makes the publications and connects for replication.
    ///
    /// # Errors
    /// UNIMPLEMENTED before PostgreSQL 15; TABLE_NOT_FOUND, PUBLICATION_NOT_FOUND,
    /// DATABASE_NOT_FOUND, LOGICAL_DECODING_OFF, RIGHT_MISSING, LOCK_TIMEOUT, SLOTS_EXHAUSTED,
    /// SERVER_UNAVAILABLE.
    pub async fn prepare(source: Source, request: Request) -> Result<Self> {
        let mut catalog = Catalog::connect(&source).await.map_err(fault::of_setup)?;
        let database = preflight::look(&mut catalog, &request).await?;
        let published = publication::prepare(&mut catalog, &request, &source, &database).await?;
        let watcher = Catalog::connect(&source).await.map_err(fault::of_setup)?;
        let options = Options {
            // By this name the walsender is known when it is swept.
            application_name: source.slot.clone(),
            client_encoding: database.client_encoding.to_owned(),
            wal_sender_timeout: WAL_SENDER_TIMEOUT,
        };
        let connection =
            Connection::connect(&source.target, &source.login, options, CONNECT_LIMIT).await;
        let connection = connection.map_err(fault::of_slot)?;
        Ok(Self {
            connection,
            catalog,
            watcher,
            published,
            request,
            source,
        })
    }

    /// Makes the slot and feeds changes from it, until `stop` says why that has to
    /// end. Batches come at once: as long as the slot waits for transactions, they name
    /// them. `guard` is dropped when nothing of this is connected to the server any
    /// more.
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
            mut catalog,
            watcher,
            published,
            request,
            source,
        } = self;
        let ours = published.ours;
        let streaming = async {
            let canceller = connection.canceller().map(CancelOnDrop::new);
            let making = start(connection, &source, &request, &published);
            let stream = wait(making, &mut catalog, &request, &mut out).await?;
            canceller.into_iter().for_each(CancelOnDrop::disarm);
            publication::check(&mut catalog, &published).await?;
            let relations = Relations::new(published.wanted, request.key_columns.clone());
            let pump = Pump::new(stream, catalog, relations, &request, &source, out);
            pump.run().await
        };
        if !ours {
            return streaming.await;
        }
        // From the first moment: the publications are there already, and the slot may
        // wait for minutes.
        tokio::select! {
            ended = streaming => ended,
            never = identity::watch(watcher, &source) => match never {},
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

/// Waits for the slot, and tells the subscriber meanwhile what it waits for.
async fn wait<T>(
    making: impl Future<Output = Result<T>>,
    catalog: &mut Catalog,
    request: &Request,
    out: &mut feed::Output,
) -> Result<T> {
    tokio::pin!(making);
    loop {
        tokio::select! {
            made = &mut making => return made,
            () = tokio::time::sleep(request.heartbeat) => {}
        }
        let waiting_for = waiting_for(catalog).await?;
        // Without any, a batch would say that the slot is made.
        if waiting_for.is_empty() {
            continue;
        }
        out.send(ChangeBatch {
            waiting_for,
            ..ChangeBatch::default()
        })
        .await?;
    }
}

async fn waiting_for(catalog: &mut Catalog) -> Result<Vec<WaitingFor>> {
    let rows = catalog
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

/// A walsender that makes a slot does not notice that its client has gone.
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
        // Bounded; if it is lost, the subscription's sweep ends the walsender.
        runtime.spawn(async move {
            if let Err(error) = canceller.cancel(CONNECT_LIMIT).await {
                tracing::warn!(%error, "cannot cancel the making of a slot");
            }
        });
    }
}
