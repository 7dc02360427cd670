//! Subscribers of change streams: one at a time, which has the lease of the stream.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::{
        Changes, Permit, shutting_down,
        subscriptions::{LEASE, Open},
        tasks::Tasks,
    },
    ChangeStreams,
    acknowledge::Acknowledgements,
};
use crate::{
    domain::{
        Error, Reason, Result,
        change_stream::{self, ChangeStream, Position, Source},
        name::ChangeStreamName,
        token::Token,
    },
    store::{Store, leases::Held},
    streams::{self, Durable, Feed, Request},
};

/// How often an idle stream is acknowledged up to the end of the log.
const ADVANCE: Duration = Duration::from_secs(10);

/// What a subscriber of a change stream asks for.
#[derive(Debug)]
pub struct SubscribeChangeStream {
    /// Resource name.
    pub name: ChangeStreamName,
    /// Where to go on; empty: behind what is acknowledged.
    pub resume_token: Vec<u8>,
    /// Acknowledges batches when they are delivered.
    pub on_delivery: bool,
    /// Ends the subscriber that the stream has.
    pub take_over: bool,
    /// Form of the batches; what the stream follows is filled in.
    pub request: Request,
}

/// What a process has while it reads a change stream.
#[derive(Clone)]
pub(in crate::app) struct Reading {
    pub(in crate::app) worker: Uuid,
    pub(in crate::app) open: Arc<Open>,
    pub(in crate::app) tasks: Tasks,
}

/// The lease of a subscriber. It is given back when the last connection has ended.
struct Lease {
    store: Store,
    reading: Reading,
    held: Held,
    lost: CancellationToken,
    _permit: Option<Permit>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.reading.open.remove(self.held);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The process ends: the lease runs out, or is taken at the next start.
            return;
        };
        let (store, held) = (self.store.clone(), self.held);
        let giving_back = async move {
            if let Err(error) = store.renew_leases(&[held], 0.0).await {
                tracing::warn!(%error, "the lease of a change stream runs out later");
            }
        };
        self.reading.tasks.spawn_on(giving_back, &runtime);
    }
}

impl ChangeStreams {
    /// Follows a change stream.
    ///
    /// # Errors
    /// CHANGE_STREAM_NOT_FOUND, CHANGE_STREAM_NOT_READY, INSTANCE_NOT_READY, SLOT_IN_USE, SLOT_LOST,
    /// FIELD_INVALID, TOKEN_FOREIGN, HOST_ELSEWHERE. As the stream's error: TOKEN_STALE,
    /// TOKEN_AHEAD.
    pub async fn subscribe(
        &self,
        asked: SubscribeChangeStream,
        permit: Option<Permit>,
    ) -> Result<Changes> {
        let stream = self.store.change_stream(&asked.name).await?.whole()?;
        stream.require_ready()?;
        let resume = match asked.resume_token.as_slice() {
            [] => None,
            token => Some(Token::decode(token)?.position_in(&stream)?),
        };
        let log = stream
            .log
            .ok_or_else(|| Error::internal("a stream without a log"))?;
        let source = self.source(&stream).await?;
        let lease = self.lease(&stream, asked.take_over, permit).await?;
        let recorded = self
            .acknowledgements
            .follow(stream.uid, stream.acknowledged);
        let durable = Durable {
            source,
            publications: stream.publications.clone(),
            log,
            options: stream.options(),
            recorded,
            resume,
            take_over: asked.take_over,
        };
        let request = request(asked.request, &stream)?;
        let (store, held) = (self.store.clone(), lease.held);
        let confirmed = move || confirm(store.clone(), held);
        let (draining, lost) = (self.reading.tasks.draining(), lease.lost.clone());
        let stop = async move {
            tokio::select! {
                () = draining.cancelled() => shutting_down(),
                () = lost.cancelled() => taken_over(),
            }
        };
        let feed = streams::follow(durable, request, confirmed, stop, lease);
        self.acknowledge_delivered(&stream, &feed, asked.on_delivery);
        Ok(Changes(feed))
    }

    /// Where the slot of the stream is.
    async fn source(&self, stream: &ChangeStream) -> Result<streams::Source> {
        let instance = self.store.instance_by_uid(stream.instance_uid).await?;
        let instance = instance.ok_or_else(|| Error::internal("the instance of a stream"))?;
        instance.require_ready()?;
        let server = stream.server_uid.and_then(|uid| instance.server(uid));
        let server = server.ok_or_else(|| Error::internal("the server of a stream"))?;
        let database = stream.database.as_str();
        let access = self.servers.access_to(&instance, server, database).await?;
        Ok(streams::Source {
            uid: stream.uid,
            secret: self.random.uuid()?,
            target: access.target,
            login: access.login,
            slot: stream.slot.to_string(),
        })
    }

    /// Takes the lease of the stream, unless it has a subscriber.
    async fn lease(
        &self,
        stream: &ChangeStream,
        take_over: bool,
        permit: Option<Permit>,
    ) -> Result<Lease> {
        let (reading, seconds) = (&self.reading, LEASE.as_secs_f64());
        let held = match take_over {
            true => Some(
                self.store
                    .seize_lease(stream.uid, reading.worker, seconds)
                    .await?,
            ),
            false if reading.open.holds(stream.uid) => None,
            false => {
                self.store
                    .take_lease(stream.uid, reading.worker, seconds)
                    .await?
            }
        };
        let held = held.ok_or_else(|| {
            let message = "the change stream has a subscriber: end it, or take the stream over";
            Error::new(Reason::SlotInUse, message)
                .with_resource(stream.name.to_string())
                .with_retry_after(Duration::from_secs(5))
        })?;
        let lost = reading.open.insert(held);
        reading.open.end_others(held);
        Ok(Lease {
            store: self.store.clone(),
            reading: reading.clone(),
            held,
            lost,
            _permit: permit,
        })
    }

    /// Acknowledges what was delivered, where the subscriber asks for that, until it is gone.
    fn acknowledge_delivered(&self, stream: &ChangeStream, feed: &Feed, on_delivery: bool) {
        if !on_delivery {
            return;
        }
        let (acknowledgements, uid) = (self.acknowledgements.clone(), stream.uid);
        let delivered = feed.taken();
        self.reading.tasks.spawn(async move {
            deliver(acknowledgements, uid, delivered).await;
        });
    }
}

/// Records what was delivered, one after the other, at most as often as the metadata answer.
async fn deliver(
    acknowledgements: Acknowledgements,
    uid: Uuid,
    mut delivered: tokio::sync::watch::Receiver<Position>,
) {
    while delivered.changed().await.is_ok() {
        let position = *delivered.borrow_and_update();
        if let Err(error) = acknowledgements.record(uid, position).await {
            let detail = error.internal_detail();
            tracing::warn!(%error, detail, stream = %uid, "what was delivered is not on record");
            tokio::time::sleep(ADVANCE.min(Duration::from_secs(1))).await;
        }
    }
}

/// Whether the lease is held still: its row has this token. It is renewed.
async fn confirm(store: Store, held: Held) -> Result<()> {
    let renewed = store.renew_leases(&[held], LEASE.as_secs_f64()).await?;
    match renewed.is_empty() {
        true => Err(taken_over()),
        false => Ok(()),
    }
}

fn taken_over() -> Error {
    let message = "another subscriber has taken the change stream over";
    Error::new(Reason::SlotInUse, message)
}

/// The request, with what the stream follows.
fn request(request: Request, stream: &ChangeStream) -> Result<Request> {
    let (tables, publication) = match &stream.source {
        Source::Tables(tables) => {
            let tables: Result<Vec<_>> = tables.iter().map(|table| table.parse()).collect();
            (tables?, None)
        }
        Source::Publication(name) => (Vec::new(), Some(name.clone())),
    };
    Ok(Request {
        tables,
        publication,
        publish: match stream.publish {
            change_stream::Publish::All => streams::Publish::All,
            change_stream::Publish::Inserts => streams::Publish::Inserts,
        },
        on_change: match stream.on_change {
            change_stream::OnChange::End => streams::OnChange::End,
            change_stream::OnChange::Follow => streams::OnChange::Follow,
        },
        ..request
    })
}
