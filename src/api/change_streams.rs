//! `howdah.v1.ChangeStreamService`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tonic::{Request, Response, Status, async_trait};

use super::{
    admit::admit,
    answer::answer,
    budget,
    convert::{self, change_stream},
};
use crate::{
    app::{self, Changes, DeleteChangeStream, List, Permit, SubscribeChangeStream, Subscriptions},
    domain::{Error, Reason, Result, postgres::PostgresName, recorded::Recorded},
    pb::{
        EncodedBatch,
        encoded::change_stream_service_server::ChangeStreamService,
        google::longrunning::Operation,
        v1::{
            AckPolicy, AcknowledgeRequest, AcknowledgeResponse, ChangeStream,
            CreateChangeStreamRequest, DeleteChangeStreamRequest, GetChangeStreamRequest,
            LargeChanges, ListChangeStreamsRequest, ListChangeStreamsResponse, OnChange, Publish,
            SubscribeRequest, ValueFormat,
        },
    },
    streams,
};

/// Size at which a batch is cut, if the caller does not set it.
const BATCH_BYTES: usize = 256 << 10;

/// Longest time without a batch, if the caller does not set it.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The service for these use cases.
#[derive(Clone)]
pub struct ChangeStreams {
    /// Durable streams.
    pub durable: app::ChangeStreams,
    /// Temporary subscriptions.
    pub subscriptions: Subscriptions,
}

#[async_trait]
impl ChangeStreamService for ChangeStreams {
    type SubscribeStream = Batches;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Batches>, Status> {
        let admitted = admit(request)?;
        let permit = admitted.extensions.get::<Arc<budget::Permit>>().cloned();
        let request = admitted.message;
        let permit = permit.map(|it| it as Permit);
        if !request.change_stream.is_empty() {
            let changes = self.durable.subscribe(durable(request)?, permit).await?;
            return Ok(Response::new(Batches(changes)));
        }
        let instance = request.instance.parse()?;
        let database = PostgresName::parse(&request.database, "database")?;
        let changes = self
            .subscriptions
            .subscribe(&instance, &database, asked(request)?, permit)
            .await?;
        Ok(Response::new(Batches(changes)))
    }

    async fn create_change_stream(
        &self,
        request: Request<CreateChangeStreamRequest>,
    ) -> Result<Response<Operation>, Status> {
        let mut admitted = admit(request)?;
        let mutation = admitted.mutation()?;
        let new = change_stream::create(admitted.message)?;
        answer(self.durable.create(mutation, new).await)
    }

    async fn get_change_stream(
        &self,
        request: Request<GetChangeStreamRequest>,
    ) -> Result<Response<ChangeStream>, Status> {
        let name = admit(request)?.message.name.parse()?;
        let found = self.durable.get(&name).await?;
        let progress = match &found {
            Recorded::Whole(stream) => self.durable.progress(stream).await,
            Recorded::Unreadable(_) => None,
        };
        let mut stream = change_stream::recorded_to_wire(found);
        stream.progress = progress.map(change_stream::progress_to_wire);
        Ok(Response::new(stream))
    }

    async fn list_change_streams(
        &self,
        request: Request<ListChangeStreamsRequest>,
    ) -> Result<Response<ListChangeStreamsResponse>, Status> {
        let request = admit(request)?.message;
        let list = List {
            page_size: request.page_size,
            page_token: request.page_token,
            filter: request.filter,
            order_by: request.order_by,
            show_deleted: false,
        };
        let page = self.durable.list(&request.parent.parse()?, list).await?;
        let streams = page.items.into_iter();
        Ok(Response::new(ListChangeStreamsResponse {
            change_streams: streams.map(change_stream::recorded_to_wire).collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn delete_change_stream(
        &self,
        request: Request<DeleteChangeStreamRequest>,
    ) -> Result<Response<Operation>, Status> {
        let mut admitted = admit(request)?;
        let mutation = admitted.mutation()?;
        let request = admitted.message;
        let delete = DeleteChangeStream {
            name: request.name.parse()?,
            etag: request.etag,
            force: request.force,
        };
        answer(self.durable.delete(mutation, delete).await)
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeResponse>, Status> {
        let request = admit(request)?.message;
        let name = request.change_stream.parse()?;
        let position = self.durable.acknowledge(&name, &request.token).await?;
        Ok(Response::new(AcknowledgeResponse {
            acknowledged: position.lsn,
        }))
    }
}

/// A request that names a change stream.
fn durable(request: SubscribeRequest) -> Result<SubscribeChangeStream> {
    let refused = [
        ("instance", !request.instance.is_empty()),
        ("database", !request.database.is_empty()),
        ("tables", !request.tables.is_empty()),
        ("publication", !request.publication.is_empty()),
        ("publish", request.publish() != Publish::Unspecified),
        ("on_change", request.on_change() != OnChange::Unspecified),
    ];
    if let Some((field, _)) = refused.iter().find(|(_, given)| *given) {
        let message = format!("`{field}` is a property of the change stream");
        return Err(Error::new(Reason::FieldInvalid, message).with_field(*field));
    }
    Ok(SubscribeChangeStream {
        name: request.change_stream.parse()?,
        resume_token: request.resume_token.to_vec(),
        on_delivery: request.ack_policy() == AckPolicy::OnDelivery,
        take_over: request.take_over,
        request: form(request)?,
    })
}

fn asked(request: SubscribeRequest) -> Result<streams::Request> {
    if request.tables.is_empty() == request.publication.is_empty() {
        let message = "give either `tables` or `publication`";
        return Err(Error::new(Reason::FieldInvalid, message).with_field("tables"));
    }
    let durable_only = [
        ("resume_token", !request.resume_token.is_empty()),
        ("ack_policy", request.ack_policy() != AckPolicy::Unspecified),
        ("take_over", request.take_over),
    ];
    if let Some((field, _)) = durable_only.iter().find(|(_, given)| *given) {
        let message = format!("`{field}` needs a change stream");
        return Err(Error::new(Reason::FieldInvalid, message).with_field(*field));
    }
    form(request)
}

fn form(request: SubscribeRequest) -> Result<streams::Request> {
    let binary = request.value_format() == ValueFormat::Binary;
    let publication = match request.publication.as_str() {
        "" => None,
        name => Some(PostgresName::parse(name, "publication")?),
    };
    let publish = match request.publish() {
        Publish::Unspecified | Publish::All => streams::Publish::All,
        Publish::Inserts => streams::Publish::Inserts,
    };
    let on_change = match request.on_change() {
        OnChange::Unspecified | OnChange::End => streams::OnChange::End,
        OnChange::Follow => streams::OnChange::Follow,
    };
    let large_changes = match request.large_changes() {
        LargeChanges::Unspecified | LargeChanges::End => streams::LargeChanges::End,
        LargeChanges::Fragments => streams::LargeChanges::Fragments,
        LargeChanges::Skip => streams::LargeChanges::Skip,
    };
    let tables: Result<Vec<_>> = request.tables.iter().map(|table| table.parse()).collect();
    let heartbeat = request.heartbeat_interval.and_then(convert::duration);
    Ok(streams::Request {
        tables: tables?,
        publication,
        key_columns: request.key_columns,
        binary,
        max_batch_bytes: match usize::try_from(request.max_batch_bytes) {
            Ok(0) | Err(_) => BATCH_BYTES,
            Ok(bytes) => bytes,
        },
        heartbeat: heartbeat.unwrap_or(HEARTBEAT),
        publish,
        on_change,
        large_changes,
    })
}

/// The batches of a subscription. During the drain the stream ends with SHUTTING_DOWN.
#[derive(Debug)]
pub struct Batches(Changes);

impl Stream for Batches {
    type Item = Result<EncodedBatch, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.0.poll_next(context);
        next.map(|next| next.map(|batch| batch.map_err(Status::from)))
    }
}
