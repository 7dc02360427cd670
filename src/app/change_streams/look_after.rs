//! Looks after the slots of change streams: the process that supervises a server asks it every
//! 10 s, by one query for all of its streams.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use uuid::Uuid;

use super::{
    super::{
        admin::{Servers, execute},
        supervision::Supervisor,
        tasks::{Tasks, warn},
    },
    acknowledge::Acknowledgements,
    slot,
    view::{self, View},
};
use crate::{
    domain::{
        Error, Reason, Result,
        change_stream::{ChangeStream, RETAINING, State, UNRESERVED},
        clock::Clock,
        instance::{Condition, Instance, Server, Status},
    },
    pg::sql::quote_literal,
    store::Store,
    telemetry::change_streams::{self as telemetry, Series},
};

/// How often servers are asked.
const INTERVAL: Duration = Duration::from_secs(10);

/// Longest look at one server.
const LIMIT: Duration = Duration::from_secs(10);

/// Servers that are looked at at the same time.
const AT_ONCE: usize = 8;

/// Looks after change streams. Cheap to clone.
#[derive(Clone)]
pub(in crate::app) struct LookAfter {
    pub(in crate::app) store: Store,
    pub(in crate::app) clock: Arc<dyn Clock>,
    pub(in crate::app) host: Uuid,
    pub(in crate::app) servers: Servers,
    pub(in crate::app) supervisor: Supervisor,
    pub(in crate::app) tasks: Tasks,
    pub(in crate::app) acknowledgements: Acknowledgements,
}

/// Why a stream is LOST: one word, and for people.
type Why = (&'static str, String);

impl LookAfter {
    /// Looks, as long as the process serves.
    pub(in crate::app) async fn run(self) {
        loop {
            warn("change streams", self.look().await);
            if self.tasks.stops_within(INTERVAL).await {
                return;
            }
        }
    }

    async fn look(&self) -> Result<()> {
        let streams = self.store.change_streams_to_look_after(self.host).await?;
        let all: Vec<Uuid> = streams.iter().map(|stream| stream.uid).collect();
        self.acknowledgements.keep(&all);
        let mut by_server: BTreeMap<(Uuid, Uuid), Vec<ChangeStream>> = BTreeMap::new();
        for stream in streams {
            // Another process may have recorded it.
            self.acknowledgements.raise(stream.uid, stream.acknowledged);
            if let Some(server) = stream.server_uid {
                let place = (stream.instance_uid, server);
                by_server.entry(place).or_default().push(stream);
            }
        }
        let looks = by_server.into_iter().map(|((instance, server), streams)| {
            let looking = self.look_at(instance, server, streams);
            async move {
                let looked = tokio::time::timeout(LIMIT, looking).await;
                let looked = looked.unwrap_or_else(|_| Err(unanswered()));
                looked.unwrap_or_else(|error| {
                    // A server that is down or does not answer is the supervisor's business.
                    let detail = error.internal_detail();
                    tracing::debug!(%server, %error, detail, "change streams are not looked at");
                    Vec::new()
                })
            }
        });
        let looks = futures::stream::iter(looks).buffer_unordered(AT_ONCE);
        let series: Vec<Vec<Series>> = looks.collect().await;
        telemetry::publish(series.into_iter().flatten().collect());
        Ok(())
    }

    /// Looks at the streams of one server, and answers what is measured of them.
    async fn look_at(
        &self,
        instance: Uuid,
        server: Uuid,
        streams: Vec<ChangeStream>,
    ) -> Result<Vec<Series>> {
        let Some(instance) = self.store.instance_by_uid(instance).await? else {
            return Ok(Vec::new());
        };
        let Some(server) = instance
            .server(server)
            .filter(|it| self.supervises(&instance, it))
        else {
            return Ok(Vec::new());
        };
        let client = self.servers.look_at(&instance, server, "postgres").await?;
        let names: Vec<&str> = streams.iter().map(|stream| stream.slot.as_str()).collect();
        let views = view::read(&client, &names).await?;
        let mut series = Vec::with_capacity(streams.len());
        for stream in &streams {
            let mut views = views.iter();
            let view = views.find(|view| view.name == stream.slot.as_str());
            let Some(view) = view.filter(|view| is_of(view, stream)) else {
                continue;
            };
            self.judge(&instance, server, stream, view).await?;
            let progress = view.progress(stream);
            self.acknowledgements.saw(stream.uid, progress.wal_end);
            series.push(Series::of(stream, &progress));
        }
        Ok(series)
    }

    fn supervises(&self, instance: &Instance, server: &Server) -> bool {
        instance.is_to_run(server) && self.supervisor.has_term(server)
    }

    async fn judge(
        &self,
        instance: &Instance,
        server: &Server,
        stream: &ChangeStream,
        view: &View,
    ) -> Result<()> {
        if let Some((reason, message)) = lost(stream, view) {
            return self.lose(stream, reason, &message).await;
        }
        let bound = stream.max_retained_bytes;
        let exceeds = bound > 0 && view.retained() > bound;
        let message = match exceeds {
            true => format!("the slot retains more than {bound} bytes of log"),
            false => format!("the slot retains no more than {bound} bytes of log"),
        };
        self.observe(
            stream,
            RETAINING,
            exceeds,
            ("BOUND_EXCEEDED", "BOUND_KEPT"),
            &message,
        )
        .await?;
        let slot = view.slot.as_ref();
        let status = slot.and_then(|slot| slot.wal_status.as_deref());
        let unreserved = status == Some("unreserved");
        let message = match unreserved {
            true => "the server may remove log that the slot needs at its next checkpoint",
            false => "the server keeps the log that the slot needs",
        };
        self.observe(
            stream,
            UNRESERVED,
            unreserved,
            ("WAL_UNRESERVED", "WAL_RESERVED"),
            message,
        )
        .await?;
        if exceeds && stream.drop_when_exceeded {
            self.drop_above(instance, server, stream).await?;
        }
        Ok(())
    }

    /// Records a condition that holds, or that does not hold any more; only if it is news.
    async fn observe(
        &self,
        stream: &ChangeStream,
        kind: &str,
        holds: bool,
        (held, over): (&str, &str),
        message: &str,
    ) -> Result<()> {
        let condition = Condition {
            kind: kind.to_owned(),
            status: if holds { Status::True } else { Status::False },
            reason: if holds { held } else { over }.to_owned(),
            message: message.to_owned(),
            time: self.clock.now(),
        };
        let known = stream.conditions.iter().find(|known| known.kind == kind);
        if known.map_or(!holds, |known| known.says(&condition)) {
            return Ok(());
        }
        let mut tx = self.store.begin().await?;
        if !is_ready(tx.lock_change_stream_by_uid(stream.uid).await?) {
            return Ok(());
        }
        tx.set_change_stream_condition(stream.uid, &condition)
            .await?;
        tx.commit().await
    }

    /// Drops a slot that still retains more than it may when the server is at it. That it
    /// does is on record: a later look knows why the slot is gone.
    async fn drop_above(
        &self,
        instance: &Instance,
        server: &Server,
        stream: &ChangeStream,
    ) -> Result<()> {
        let database = stream.database.as_str();
        let client = self.servers.look_at(instance, server, database).await?;
        slot::end_reader(&client, stream.slot.as_str(), true).await?;
        let drop = format!(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots
                where slot_name = {}
                and pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn) > {}",
            quote_literal(stream.slot.as_str()),
            stream.max_retained_bytes,
        );
        execute(&client, &drop).await?;
        if slot::find(&client, stream.slot.as_str()).await?.is_some() {
            return Ok(());
        }
        let (reason, message) = exceeded(stream);
        self.lose(stream, reason, &message).await
    }

    async fn lose(&self, stream: &ChangeStream, reason: &str, message: &str) -> Result<()> {
        let mut tx = self.store.begin().await?;
        if !is_ready(tx.lock_change_stream_by_uid(stream.uid).await?) {
            return Ok(());
        }
        tracing::warn!(stream = %stream.name, reason, message, "a change stream is lost");
        tx.lose_change_stream(stream.uid, reason, message).await?;
        tx.commit().await
    }
}

fn is_ready(stream: Option<ChangeStream>) -> bool {
    stream.is_some_and(|stream| stream.state == State::Ready)
}

/// Whether the view is of the cluster that the stream's slot was made on.
fn is_of(view: &View, stream: &ChangeStream) -> bool {
    let made_on = stream.log.map(|log| log.system_identifier.to_string());
    made_on.is_none_or(|made_on| made_on == view.system_identifier)
}

/// Why the stream of this slot is LOST, if it is.
fn lost(stream: &ChangeStream, view: &View) -> Option<Why> {
    let Some(slot) = &view.slot else {
        let retaining = stream.conditions.iter().find(|it| it.kind == RETAINING);
        let exceeded_it = retaining.is_some_and(|it| it.status == Status::True);
        return Some(match stream.drop_when_exceeded && exceeded_it {
            true => exceeded(stream),
            false => {
                let message = format!("the replication slot `{}` was dropped", stream.slot);
                ("SLOT_DROPPED", message)
            }
        });
    };
    slot.lost().map(|why| ("SLOT_INVALIDATED", why))
}

fn exceeded(stream: &ChangeStream) -> Why {
    let bound = stream.max_retained_bytes;
    let message = format!(
        "the slot retained more than {bound} bytes of log, and was dropped (drop_when_exceeded)"
    );
    ("RETENTION_EXCEEDED", message)
}

fn unanswered() -> Error {
    let message = "the instance's server does not answer";
    Error::new(Reason::ServerUnavailable, message)
}
