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
    pb::v1::{
        ChangeBatch, SubscribeRequest, ValueFormat,
        change_stream_service_server::ChangeStreamService,
    },
    streams,
};

/// Size at which a batch is cut when the caller says nothing.
const BATCH_BYTES: usize = 256 << 10;

/// Longest silence when the caller says nothing.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The service over the use cases.
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

/// The batches of a subscription. When Howdah drains, they end with that.
#[derive(Debug)]
pub struct Batches(Changes);

impl Stream for Batches {
    type Item = Result<ChangeBatch, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.0.poll_next(context);
        next.map(|next| next.map(|batch| batch.map_err(Status::from)))
    }
}
