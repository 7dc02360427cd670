//! Services that misbehave on request, generated from Howdah's own protos.

use std::{future, pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _, stream};
use howdah::{
    domain::principal::Principal,
    pb::{
        EncodedBatch, encoded,
        google::longrunning::{self, Operation, operations_server},
        v1::{self, database_service_server},
    },
};
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// Answers `GetDatabase` and `Subscribe` by the last part of the name that is asked for:
/// `panic`, `hang`, `large-N` for an answer of so many bytes, or anything else, which works.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fickle {
    /// Told when a hanging handler was dropped.
    pub(super) dropped: Arc<Notify>,
    /// Lets the second batch of a stream go.
    pub(super) next: Arc<Notify>,
}

struct TellDropped(Arc<Notify>);

impl Drop for TellDropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn principal<T>(request: &Request<T>) -> String {
    request
        .extensions()
        .get::<Principal>()
        .expect("a principal in the extensions")
        .to_string()
}

#[tonic::async_trait]
impl database_service_server::DatabaseService for Fickle {
    async fn get_database(&self, request: Request<v1::GetDatabaseRequest>) -> Answer<v1::Database> {
        match request.get_ref().name.as_str() {
            "panic" => panic!("on request"),
            "hang" => {
                let _tell = TellDropped(Arc::clone(&self.dropped));
                future::pending().await
            }
            name if name.starts_with("large-") => {
                let length = name["large-".len()..].parse().unwrap();
                let annotations = [("large".to_owned(), "x".repeat(length))];
                Ok(Response::new(v1::Database {
                    annotations: annotations.into(),
                    ..Default::default()
                }))
            }
            name => Ok(Response::new(v1::Database {
                name: name.to_owned(),
                owner: principal(&request),
                ..Default::default()
            })),
        }
    }

    async fn create_database(&self, _: Request<v1::CreateDatabaseRequest>) -> Answer<Operation> {
        Ok(Response::new(Operation::default()))
    }

    async fn list_databases(
        &self,
        _: Request<v1::ListDatabasesRequest>,
    ) -> Answer<v1::ListDatabasesResponse> {
        Ok(Response::new(v1::ListDatabasesResponse::default()))
    }

    async fn delete_database(&self, _: Request<v1::DeleteDatabaseRequest>) -> Answer<Operation> {
        Ok(Response::new(Operation::default()))
    }

    async fn get_connection(&self, _: Request<v1::GetConnectionRequest>) -> Answer<v1::Connection> {
        Ok(Response::new(v1::Connection::default()))
    }
}

#[tonic::async_trait]
impl encoded::change_stream_service_server::ChangeStreamService for Fickle {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<EncodedBatch, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Answer<Self::SubscribeStream> {
        let first = stream::iter([Ok(EncodedBatch::default())]);
        let next = Arc::clone(&self.next);
        if request.get_ref().database == "endless" {
            return Ok(Response::new(first.cycle().boxed()));
        }
        let fails = request.get_ref().database == "panic";
        let tell = TellDropped(Arc::clone(&self.dropped));
        let then = stream::once(async move {
            let _tell = tell;
            next.notified().await;
            assert!(!fails, "on request");
            Ok(EncodedBatch::default())
        });
        Ok(Response::new(first.chain(then).boxed()))
    }

    async fn create_change_stream(
        &self,
        _: Request<v1::CreateChangeStreamRequest>,
    ) -> Answer<Operation> {
        Ok(Response::new(Operation::default()))
    }

    async fn get_change_stream(
        &self,
        _: Request<v1::GetChangeStreamRequest>,
    ) -> Answer<v1::ChangeStream> {
        Ok(Response::new(v1::ChangeStream::default()))
    }

    async fn list_change_streams(
        &self,
        _: Request<v1::ListChangeStreamsRequest>,
    ) -> Answer<v1::ListChangeStreamsResponse> {
        Ok(Response::new(v1::ListChangeStreamsResponse::default()))
    }

    async fn delete_change_stream(
        &self,
        _: Request<v1::DeleteChangeStreamRequest>,
    ) -> Answer<Operation> {
        Ok(Response::new(Operation::default()))
    }

    async fn acknowledge(
        &self,
        _: Request<v1::AcknowledgeRequest>,
    ) -> Answer<v1::AcknowledgeResponse> {
        Ok(Response::new(v1::AcknowledgeResponse::default()))
    }
}

/// Nothing but waits, which last.
#[tonic::async_trait]
impl operations_server::Operations for Fickle {
    async fn wait_operation(
        &self,
        _: Request<longrunning::WaitOperationRequest>,
    ) -> Answer<Operation> {
        let _tell = TellDropped(Arc::clone(&self.dropped));
        future::pending().await
    }

    async fn list_operations(
        &self,
        _: Request<longrunning::ListOperationsRequest>,
    ) -> Answer<longrunning::ListOperationsResponse> {
        Ok(Response::new(longrunning::ListOperationsResponse::default()))
    }

    async fn get_operation(
        &self,
        _: Request<longrunning::GetOperationRequest>,
    ) -> Answer<Operation> {
        Ok(Response::new(Operation::default()))
    }

    async fn delete_operation(
        &self,
        _: Request<longrunning::DeleteOperationRequest>,
    ) -> Answer<()> {
        Ok(Response::new(()))
    }

    async fn cancel_operation(
        &self,
        _: Request<longrunning::CancelOperationRequest>,
    ) -> Answer<()> {
        Ok(Response::new(()))
    }
}
