//! Durable change streams.

pub(super) mod acknowledge;
pub(super) mod look_after;
pub(super) mod objects;
pub(super) mod slot;
pub(super) mod subscribe;
mod view;

use std::{collections::BTreeMap, slice, sync::Arc, time::Duration};

use serde_json::json;
use uuid::Uuid;

use self::{acknowledge::Acknowledgements, subscribe::Reading, view::View};
use super::{
    Mutation,
    admin::Servers,
    hosts::Hosts,
    mutation::{Accepting, Mutations, ResourceRef, parameters},
    operations::{self, DeleteChangeStreamParameters},
    pages::{List, Listed, Page, Query},
};
use crate::{
    domain::{
        Error, Reason, Result,
        change_stream::{
            ChangeStream, OnChange, Position, Progress, Publish, Source, State, own_name, slot_name,
        },
        filter::{Fields, Filter, Type, Value as Field},
        instance::{Instance, check_etag},
        list::Order,
        name::{ChangeStreamName, InstanceName},
        operation::Operation,
        postgres::{PostgresName, TableName},
        random::Random,
        recorded::Recorded,
        token::Token,
    },
    store::{Store, change_streams::NewChangeStream},
};

pub(super) const FIELDS: Fields = &[
    ("change_stream_id", Type::Text),
    (
        "state",
        Type::Word(&["CREATING", "READY", "DELETING", "FAILED", "LOST"]),
    ),
    ("database", Type::Text),
    ("create_time", Type::Time),
];

/// A request for a new change stream.
#[derive(Clone, Debug)]
pub struct CreateChangeStream {
    /// Resource name.
    pub name: ChangeStreamName,
    /// Labels of the user.
    pub labels: BTreeMap<String, String>,
    /// Name of the database in PostgreSQL.
    pub database: String,
    /// Tables as in SQL; either these or a publication.
    pub tables: Vec<String>,
    /// Name of a publication that exists; empty with tables.
    pub publication: String,
    /// What is published of the tables.
    pub publish: Publish,
    /// What to do when what it follows is not any more what was asked for.
    pub on_change: OnChange,
    /// A slot that exists; empty for one of its own.
    pub slot: String,
    /// Bytes of log that the slot may retain; 0 for no bound.
    pub max_retained_bytes: i64,
    /// Drops the slot when it retains more.
    pub drop_when_exceeded: bool,
}

/// A request to delete a change stream.
#[derive(Clone, Debug)]
pub struct DeleteChangeStream {
    /// Resource name.
    pub name: ChangeStreamName,
    /// Etag that it must have; empty for any.
    pub etag: String,
    /// An adopted slot too.
    pub force: bool,
}

/// Durable change streams. Cheap to clone.
#[derive(Clone)]
pub struct ChangeStreams {
    pub(super) store: Store,
    pub(super) random: Arc<dyn Random>,
    pub(super) hosts: Hosts,
    pub(super) servers: Servers,
    pub(super) mutations: Mutations,
    pub(super) acknowledgements: Acknowledgements,
    pub(super) reading: Reading,
}

/// Longest that a call waits for what a server shows of a slot.
const SHOWN_WITHIN: Duration = Duration::from_secs(2);

impl ChangeStreams {
    /// Gets a change stream.
    ///
    /// # Errors
    /// CHANGE_STREAM_NOT_FOUND.
    pub async fn get(&self, name: &ChangeStreamName) -> Result<Recorded<ChangeStream>> {
        self.store.change_stream(name).await
    }

    /// How far a stream is as its server shows it, if it does in time.
    pub async fn progress(&self, stream: &ChangeStream) -> Option<Progress> {
        let shown = tokio::time::timeout(SHOWN_WITHIN, self.look_at(stream)).await;
        let Ok(Ok(view)) = shown else { return None };
        view.slot.as_ref()?;
        Some(view.progress(stream))
    }

    async fn look_at(&self, stream: &ChangeStream) -> Result<View> {
        let instance = self.store.instance_by_uid(stream.instance_uid).await?;
        let instance = instance.ok_or_else(|| Error::internal("the instance of a stream"))?;
        let server = stream.server_uid.and_then(|uid| instance.server(uid));
        let server = server.filter(|server| instance.is_to_run(server));
        let server = server.ok_or_else(|| instance.not_ready())?;
        let client = self.servers.look_at(&instance, server, "postgres").await?;
        let views = view::read(&client, &[stream.slot.as_str()]).await?;
        let view = views.into_iter().next();
        view.ok_or_else(|| Error::internal("no row of a slot's name"))
    }

    /// Records what a subscriber has stored, by the token of its last batch, and answers what is
    /// on record then. A position that the server's log does not reach is refused: the server
    /// would skip what commits before it, in silence.
    ///
    /// # Errors
    /// CHANGE_STREAM_NOT_FOUND, CHANGE_STREAM_NOT_READY, SLOT_LOST, FIELD_INVALID,
    /// TOKEN_FOREIGN, TOKEN_AHEAD, SERVER_UNAVAILABLE, HOST_ELSEWHERE.
    pub async fn acknowledge(&self, name: &ChangeStreamName, token: &[u8]) -> Result<Position> {
        let stream = &self.store.change_stream(name).await?.whole()?;
        stream.require_ready()?;
        let to = Token::decode(token)?.position_in(stream)?;
        if to <= stream.acknowledged {
            return Ok(stream.acknowledged);
        }
        let (known, uid) = (&self.acknowledgements, stream.uid);
        if !known.has_seen(uid, to) {
            let looked = tokio::time::timeout(SHOWN_WITHIN, self.look_at(stream)).await;
            let view = looked.unwrap_or_else(|_| {
                let message = "the instance's server does not answer";
                Err(Error::new(Reason::ServerUnavailable, message))
            })?;
            known.saw(uid, view.progress(stream).wal_end);
        }
        if !known.has_seen(uid, to) {
            let message = "the token is ahead of the end of the server's log";
            return Err(Error::new(Reason::TokenAhead, message).with_field("token"));
        }
        known.record(uid, to).await
    }

    /// Lists the change streams of an instance.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND; as [`Instances::list`](super::Instances::list).
    pub async fn list(
        &self,
        instance: &InstanceName,
        list: List,
    ) -> Result<Page<Recorded<ChangeStream>>> {
        let order = Order::parse(&list.order_by, "change_stream_id")?;
        let filter = Filter::parse(&list.filter, FIELDS)?;
        let query = Query::new(&format!("{instance}/changeStreams"), list, order, filter)?;
        let instance = match self.store.instance(instance).await? {
            Recorded::Whole(instance) => instance.uid,
            Recorded::Unreadable(unreadable) => unreadable.uid,
        };
        let part = self.store.change_streams(instance, query.slice()).await?;
        query.page(part)
    }

    /// Creates a change stream with its publications and its replication slot.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND, INSTANCE_NOT_READY, CHANGE_STREAM_EXISTS, TABLE_NAME_MALFORMED,
    /// NAME_TOO_LONG, FIELD_INVALID, RESOURCE_BUSY, HOST_UNAVAILABLE.
    pub async fn create(&self, mutation: Mutation, new: CreateChangeStream) -> Result<Operation> {
        let streams = self.clone();
        let accept = move |accepting| streams.accept_create(accepting, new);
        self.mutations.accept(mutation, accept).await
    }

    /// Deletes a change stream with what was made for it.
    ///
    /// # Errors
    /// CHANGE_STREAM_NOT_FOUND, ETAG_MISMATCH, INSTANCE_DELETED, RESOURCE_BUSY,
    /// HOST_UNAVAILABLE.
    pub async fn delete(
        &self,
        mutation: Mutation,
        delete: DeleteChangeStream,
    ) -> Result<Operation> {
        let streams = self.clone();
        let accept = move |accepting| streams.accept_delete(accepting, delete);
        self.mutations.accept(mutation, accept).await
    }

    async fn accept_create(
        self,
        mut accepting: Accepting,
        new: CreateChangeStream,
    ) -> Result<Operation> {
        let instance = accepting.tx.hold_instance(&new.name.instance).await?;
        let active = slice::from_ref(instance.active()?);
        accepting = self.hosts.refuse_gone(accepting, &instance, active).await?;
        instance.require_ready()?;
        let tx = &mut accepting.tx;
        tx.refuse_busy(instance.uid).await?;
        let (name, uid) = (new.name.clone(), self.random.uuid()?);
        let stream = record(new, uid, &instance)?;
        tx.insert_change_stream(&stream).await?;
        let target = target_of(&name, uid, &instance)?;
        accepting
            .enqueue(&operations::CREATE_CHANGE_STREAM, target, json!({}))
            .await
    }

    /// Also of an instance that is stopped: the operation waits for its server.
    async fn accept_delete(
        self,
        mut accepting: Accepting,
        delete: DeleteChangeStream,
    ) -> Result<Operation> {
        let instance = accepting.tx.hold_instance(&delete.name.instance).await?;
        let stream = accepting.tx.lock_change_stream(&delete.name).await?;
        check_etag(&delete.etag, &stream.etag())?;
        if instance.delete_time.is_some() {
            let message = "the instance is deleted, and its change streams go with it";
            return Err(Error::new(Reason::InstanceDeleted, message)
                .with_resource(instance.name.to_string()));
        }
        let active = slice::from_ref(instance.active()?);
        accepting = self.hosts.refuse_gone(accepting, &instance, active).await?;
        let tx = &mut accepting.tx;
        tx.refuse_busy(instance.uid).await?;
        tx.refuse_busy(stream.uid).await?;
        tx.set_change_stream_state(stream.uid, State::Deleting)
            .await?;
        let target = target_of(&delete.name, stream.uid, &instance)?;
        let force = DeleteChangeStreamParameters {
            force: delete.force,
        };
        accepting
            .enqueue(
                &operations::DELETE_CHANGE_STREAM,
                target,
                parameters(force)?,
            )
            .await
    }
}

fn target_of(name: &ChangeStreamName, uid: Uuid, instance: &Instance) -> Result<ResourceRef> {
    Ok(ResourceRef {
        project: name.instance.project.clone(),
        name: name.to_string(),
        uid,
        parent: Some(instance.uid),
        host: instance.active()?.host(),
    })
}

fn record(new: CreateChangeStream, uid: Uuid, instance: &Instance) -> Result<NewChangeStream> {
    let source = source(&new)?;
    if new.drop_when_exceeded && new.max_retained_bytes == 0 {
        let message = "`drop_when_exceeded` needs `max_retained_bytes`";
        return Err(Error::new(Reason::FieldInvalid, message)
            .with_field("change_stream.drop_when_exceeded"));
    }
    Ok(NewChangeStream {
        uid,
        instance_uid: instance.uid,
        name: new.name,
        labels: new.labels,
        database: PostgresName::parse(&new.database, "change_stream.database")?,
        source,
        publish: new.publish,
        on_change: new.on_change,
        slot_adopted: !new.slot.is_empty(),
        slot: match new.slot.as_str() {
            "" => PostgresName::parse(&own_name(uid), "change_stream.slot")?,
            name => slot_name(name)?,
        },
        max_retained_bytes: new.max_retained_bytes,
        drop_when_exceeded: new.drop_when_exceeded,
        server_uid: instance.active()?.uid,
    })
}

fn source(new: &CreateChangeStream) -> Result<Source> {
    let refuse = |field: &str, message: &str| {
        Err(Error::new(Reason::FieldInvalid, message).with_field(field))
    };
    for table in &new.tables {
        let _: TableName = table.parse()?;
    }
    match (new.tables.is_empty(), new.publication.as_str()) {
        (false, "") => Ok(Source::Tables(new.tables.clone())),
        (true, name) if !name.is_empty() && new.publish != Publish::All => refuse(
            "change_stream.publish",
            "`publish` is about `tables`: a publication says itself what it publishes",
        ),
        (true, name) if !name.is_empty() => {
            let name = PostgresName::parse(name, "change_stream.publication")?;
            Ok(Source::Publication(name))
        }
        _ => refuse(
            "change_stream.tables",
            "give either `tables` or `publication`",
        ),
    }
}

impl Listed for ChangeStream {
    fn labels(&self) -> Option<&BTreeMap<String, String>> {
        Some(&self.labels)
    }

    fn field(&self, name: &str) -> Option<Field> {
        Some(match name {
            "change_stream_id" => Field::Text(self.name.stream.to_string()),
            "state" => Field::Text(self.state.as_str().to_owned()),
            "database" => Field::Text(self.database.to_string()),
            "create_time" => Field::Time(self.create_time),
            _ => return None,
        })
    }
}
