//! A gRPC server that answers as a test wants, to see what the client makes of it.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use howdah::pb::{
    EncodedBatch,
    encoded::change_stream_service_server::{ChangeStreamService, ChangeStreamServiceServer},
    google::longrunning::{
        CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
        ListOperationsResponse, Operation, WaitOperationRequest,
        operations_server::{Operations, OperationsServer},
    },
    v1::{
        AcknowledgeRequest, AcknowledgeResponse, ChangeBatch, ChangeStream, Connection,
        CreateChangeStreamRequest, CreateDatabaseRequest, Database, DeleteChangeStreamRequest,
        DeleteDatabaseRequest, GetChangeStreamRequest, GetConnectionRequest, GetDatabaseRequest,
        ListChangeStreamsRequest, ListChangeStreamsResponse, ListDatabasesRequest,
        ListDatabasesResponse, SubscribeRequest,
        database_service_server::{DatabaseService, DatabaseServiceServer},
    },
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Answers to come, in order, and what was asked.
#[derive(Default)]
struct Script {
    operations: VecDeque<Result<Operation, Status>>,
    pages: VecDeque<ListDatabasesResponse>,
    batches: Vec<Result<ChangeBatch, Status>>,
    asked: Vec<String>,
}

/// A scripted server. Dropped, it is gone.
#[derive(Clone)]
pub(super) struct Server {
    script: Arc<Mutex<Script>>,
    address: SocketAddr,
    _tasks: Arc<JoinSet<()>>,
}

/// The part that the services share.
#[derive(Clone)]
struct Answers(Arc<Mutex<Script>>);

impl Server {
    pub(super) async fn start() -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = Answers(script.clone());
        let router = tonic::transport::Server::builder()
            .add_service(OperationsServer::new(answers.clone()))
            .add_service(DatabaseServiceServer::new(answers.clone()))
            .add_service(ChangeStreamServiceServer::new(answers));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            router
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            script,
            address,
            _tasks: Arc::new(tasks),
        }
    }

    pub(super) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// The next call that answers with an operation, or with nothing, answers so.
    pub(super) fn answer(&self, operation: Result<Operation, Status>) {
        self.script.lock().unwrap().operations.push_back(operation);
    }

    pub(super) fn page(&self, page: ListDatabasesResponse) {
        self.script.lock().unwrap().pages.push_back(page);
    }

    /// What Subscribe sends before it ends.
    pub(super) fn batches(&self, batches: Vec<Result<ChangeBatch, Status>>) {
        self.script.lock().unwrap().batches = batches;
    }

    /// What was asked so far: method and its telling field.
    pub(super) fn asked(&self) -> Vec<String> {
        self.script.lock().unwrap().asked.clone()
    }
}

impl Answers {
    fn next(&self, asked: String) -> Result<Response<Operation>, Status> {
        let mut script = self.0.lock().unwrap();
        script.asked.push(asked);
        let next = script.operations.pop_front();
        next.unwrap_or_else(|| Err(Status::unknown("no answer left")))
            .map(Response::new)
    }
}

#[tonic::async_trait]
impl Operations for Answers {
    async fn list_operations(
        &self,
        _: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.next(format!("get {}", request.get_ref().name))
    }

    async fn delete_operation(
        &self,
        request: Request<DeleteOperationRequest>,
    ) -> Result<Response<()>, Status> {
        self.next(format!("delete {}", request.get_ref().name))
            .map(|_| Response::new(()))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        self.next(format!("cancel {}", request.get_ref().name))
            .map(|_| Response::new(()))
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.next(format!("wait {}", request.get_ref().name))
    }
}

#[tonic::async_trait]
impl DatabaseService for Answers {
    async fn create_database(
        &self,
        request: Request<CreateDatabaseRequest>,
    ) -> Result<Response<Operation>, Status> {
        let request = request.get_ref();
        self.next(format!(
            "create {}/{} {}",
            request.parent, request.database_id, request.request_id
        ))
    }

    async fn get_database(
        &self,
        _: Request<GetDatabaseRequest>,
    ) -> Result<Response<Database>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn list_databases(
        &self,
        request: Request<ListDatabasesRequest>,
    ) -> Result<Response<ListDatabasesResponse>, Status> {
        let mut script = self.0.lock().unwrap();
        script
            .asked
            .push(format!("list after {:?}", request.get_ref().page_token));
        let page = script.pages.pop_front();
        page.map(Response::new)
            .ok_or_else(|| Status::unknown("no page left"))
    }

    async fn delete_database(
        &self,
        _: Request<DeleteDatabaseRequest>,
    ) -> Result<Response<Operation>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn get_connection(
        &self,
        request: Request<GetConnectionRequest>,
    ) -> Result<Response<Connection>, Status> {
        let uri = "postgres://shop_user:pw@127.0.0.1:20000/shop".to_owned();
        assert_eq!(
            request.get_ref().name,
            "projects/default/instances/orders/databases/shop"
        );
        Ok(Response::new(Connection {
            environment: [("DATABASE_URL".to_owned(), uri.clone())].into(),
            uri,
            ..Connection::default()
        }))
    }
}

#[tonic::async_trait]
impl ChangeStreamService for Answers {
    type SubscribeStream = tokio_stream::Iter<std::vec::IntoIter<Result<EncodedBatch, Status>>>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.get_ref();
        let mut script = self.0.lock().unwrap();
        let tables = request.tables.join(" ");
        script.asked.push(format!(
            "subscribe {} {} {tables}",
            request.instance, request.database
        ));
        let batches = std::mem::take(&mut script.batches).into_iter();
        let batches: Vec<_> = batches.map(|batch| batch.map(EncodedBatch::from)).collect();
        Ok(Response::new(tokio_stream::iter(batches)))
    }

    async fn create_change_stream(
        &self,
        _: Request<CreateChangeStreamRequest>,
    ) -> Result<Response<Operation>, Status> {
        Ok(Response::new(Operation::default()))
    }

    async fn get_change_stream(
        &self,
        _: Request<GetChangeStreamRequest>,
    ) -> Result<Response<ChangeStream>, Status> {
        Ok(Response::new(ChangeStream::default()))
    }

    async fn list_change_streams(
        &self,
        _: Request<ListChangeStreamsRequest>,
    ) -> Result<Response<ListChangeStreamsResponse>, Status> {
        Ok(Response::new(ListChangeStreamsResponse::default()))
    }

    async fn delete_change_stream(
        &self,
        _: Request<DeleteChangeStreamRequest>,
    ) -> Result<Response<Operation>, Status> {
        Ok(Response::new(Operation::default()))
    }

    async fn acknowledge(
        &self,
        _: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeResponse>, Status> {
        Ok(Response::new(AcknowledgeResponse::default()))
    }
}
