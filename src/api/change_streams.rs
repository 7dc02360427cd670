//! `howdah.v1.ChangeStreamService`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tonic::{Request, Response, Status, async_trait};

use super::{admit::admit, budget, convert};
use crate::{
    app::{Changes, Permit, Subscriptions},
    domain::{Error, Reason, Result, postgres::PostgresName},
    pb::{
        EncodedBatch,
        encoded::change_stream_service_server::ChangeStreamService,
        google::longrunning::Operation,
        v1::{
            AcknowledgeRequest, AcknowledgeResponse, ChangeStream, CreateChangeStreamRequest,
            DeleteChangeStreamRequest, GetChangeStreamRequest, ListChangeStreamsRequest,
            ListChangeStreamsResponse, SubscribeRequest, ValueFormat,
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
pub struct ChangeStreams(pub Subscriptions);

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
        if !request.change_stream.is_empty() {
            return Err(unimplemented().into());
        }
        let instance = request.instance.parse()?;
        let database = PostgresName::parse(&request.database, "database")?;
        let changes = self
            .0
            .subscribe(
                &instance,
                &database,
                asked(request)?,
                permit.map(|it| it as Permit),
            )
            .await?;
        Ok(Response::new(Batches(changes)))
    }

    async fn create_change_stream(
        &self,
        request: Request<CreateChangeStreamRequest>,
    ) -> Result<Response<Operation>, Status> {
        admit(request)?;
        Err(unimplemented().into())
    }

    async fn get_change_stream(
        &self,
        request: Request<GetChangeStreamRequest>,
    ) -> Result<Response<ChangeStream>, Status> {
        admit(request)?;
        Err(unimplemented().into())
    }

    async fn list_change_streams(
        &self,
        request: Request<ListChangeStreamsRequest>,
    ) -> Result<Response<ListChangeStreamsResponse>, Status> {
        admit(request)?;
        Err(unimplemented().into())
    }

    async fn delete_change_stream(
        &self,
        request: Request<DeleteChangeStreamRequest>,
    ) -> Result<Response<Operation>, Status> {
        admit(request)?;
        Err(unimplemented().into())
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeResponse>, Status> {
        admit(request)?;
        Err(unimplemented().into())
    }
}

fn unimplemented() -> Error {
    Error::new(
        Reason::Unimplemented,
        "durable change streams are not there yet",
    )
}

fn asked(request: SubscribeRequest) -> Result<streams::Request> {
    if request.tables.is_empty() == request.publication.is_empty() {
        let message = "give either `tables` or `publication`";
        return Err(Error::new(Reason::FieldInvalid, message).with_field("tables"));
    }
    let binary = request.value_format() == ValueFormat::Binary;
    let publication = match request.publication.as_str() {
        "" => None,
        name => Some(PostgresName::parse(name, "publication")?),
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
    })
}

/// The batches of a subscription. During the drain the stream ends with SHUTTING_DOWN.
#[derive(Debug)]
pub struct Batches(Changes);

impl Stream for Batches {
    type Item = Result<EncodedBatch, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.0.poll_next(context);
        next.map(|next| next.map(|batch| batch.map(EncodedBatch::from).map_err(Status::from)))
    }
}
