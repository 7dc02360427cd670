//! Every method of the API.

use tonic::{Streaming, transport::Channel};
use uuid::Uuid;

use super::{Client, Result, Retries};
use crate::pb::{
    google::longrunning::{
        CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
        ListOperationsResponse, Operation, operations_client::OperationsClient,
    },
    v1::{
        AcknowledgeRequest, AcknowledgeResponse, AuditRecord, ChangeBatch, ChangeStream,
        Connection, CreateChangeStreamRequest, CreateDatabaseRequest, CreateInstanceRequest,
        Database, DeleteChangeStreamRequest, DeleteDatabaseRequest, DeleteInstanceRequest,
        GetChangeStreamRequest, GetConnectionRequest, GetDatabaseRequest, GetInstanceRequest,
        Instance, ListAuditRecordsRequest, ListAuditRecordsResponse, ListChangeStreamsRequest,
        ListChangeStreamsResponse, ListDatabasesRequest, ListDatabasesResponse, ListEnginesRequest,
        ListEnginesResponse, ListInstancesRequest, ListInstancesResponse, ReadInstanceLogRequest,
        ReadInstanceLogResponse, RestartInstanceRequest, StartInstanceRequest, StopInstanceRequest,
        SubscribeRequest, UndeleteInstanceRequest, audit_service_client::AuditServiceClient,
        change_stream_service_client::ChangeStreamServiceClient,
        database_service_client::DatabaseServiceClient,
        instance_service_client::InstanceServiceClient,
    },
};

/// Calls that change nothing, and so can be retried.
macro_rules! reads {
    ($service:ident: $($(#[$doc:meta])* $method:ident($request:ty) -> $answer:ty;)*) => {
        impl Client {
            $($(#[$doc])*
            ///
            /// # Errors
            /// As the method says in the protos; UNAVAILABLE after some tries.
            pub async fn $method(&self, request: $request) -> Result<$answer> {
                let call = |channel: Channel| {
                    let request = self.bounded(request.clone());
                    async move { $service::new(channel).$method(request).await }
                };
                self.retried(call, Retries::Short).await
            })*
        }
    };
}

/// Calls that change something. Their request id makes retries safe.
macro_rules! mutations {
    ($service:ident: $($(#[$doc:meta])* $method:ident($request:ty);)*) => {
        impl Client {
            $($(#[$doc])*
            /// Without a `request_id` it gets one, so that it is done once.
            ///
            /// # Errors
            /// As the method says in the protos; UNAVAILABLE after some tries.
            pub async fn $method(&self, mut request: $request) -> Result<Operation> {
                if request.request_id.is_empty() {
                    request.request_id = Uuid::new_v4().to_string();
                }
                let call = |channel: Channel| {
                    let request = self.bounded(request.clone());
                    async move { $service::new(channel).$method(request).await }
                };
                self.retried(call, Retries::Short).await
            })*
        }
    };
}

/// Lists that are read page by page.
macro_rules! lists {
    ($($(#[$doc:meta])* $all:ident = $method:ident($request:ty).$field:ident -> $item:ty;)*) => {
        impl Client {
            $($(#[$doc])*
            ///
            /// # Errors
            /// As the method says in the protos; UNAVAILABLE after some tries.
            pub async fn $all(&self, mut request: $request, limit: usize) -> Result<Vec<$item>> {
                let mut found = Vec::new();
                loop {
                    let page = self.$method(request.clone()).await?;
                    found.extend(page.$field);
                    if page.next_page_token.is_empty() || found.len() >= limit {
                        found.truncate(limit);
                        return Ok(found);
                    }
                    request.page_token = page.next_page_token;
                }
            })*
        }
    };
}

reads! { InstanceServiceClient:
    /// Gets an instance.
    get_instance(GetInstanceRequest) -> Instance;
    /// Lists a page of instances.
    list_instances(ListInstancesRequest) -> ListInstancesResponse;
    /// Reads a part of the log of an instance's server.
    read_instance_log(ReadInstanceLogRequest) -> ReadInstanceLogResponse;
    /// Lists the PostgreSQL installations.
    list_engines(ListEnginesRequest) -> ListEnginesResponse;
}

reads! { DatabaseServiceClient:
    /// Gets a database.
    get_database(GetDatabaseRequest) -> Database;
    /// Lists a page of databases.
    list_databases(ListDatabasesRequest) -> ListDatabasesResponse;
    /// Gets how to connect to a database, with its password.
    get_connection(GetConnectionRequest) -> Connection;
}

reads! { ChangeStreamServiceClient:
    /// Gets a change stream, with how far it is.
    get_change_stream(GetChangeStreamRequest) -> ChangeStream;
    /// Lists a page of change streams.
    list_change_streams(ListChangeStreamsRequest) -> ListChangeStreamsResponse;
    /// Acknowledges what was stored: an older token changes nothing.
    acknowledge(AcknowledgeRequest) -> AcknowledgeResponse;
}

reads! { AuditServiceClient:
    /// Lists a page of audit records.
    list_audit_records(ListAuditRecordsRequest) -> ListAuditRecordsResponse;
}

reads! { OperationsClient:
    /// Gets an operation.
    get_operation(GetOperationRequest) -> Operation;
    /// Lists a page of operations.
    list_operations(ListOperationsRequest) -> ListOperationsResponse;
}

mutations! { InstanceServiceClient:
    /// Creates an instance.
    create_instance(CreateInstanceRequest);
    /// Deletes an instance.
    delete_instance(DeleteInstanceRequest);
    /// Takes a deletion back.
    undelete_instance(UndeleteInstanceRequest);
    /// Starts an instance.
    start_instance(StartInstanceRequest);
    /// Stops an instance.
    stop_instance(StopInstanceRequest);
    /// Restarts an instance.
    restart_instance(RestartInstanceRequest);
}

mutations! { DatabaseServiceClient:
    /// Creates a database.
    create_database(CreateDatabaseRequest);
    /// Drops a database.
    delete_database(DeleteDatabaseRequest);
}

mutations! { ChangeStreamServiceClient:
    /// Creates a change stream.
    create_change_stream(CreateChangeStreamRequest);
    /// Deletes a change stream.
    delete_change_stream(DeleteChangeStreamRequest);
}

lists! {
    /// Lists instances to the end, or the first `limit`.
    all_instances = list_instances(ListInstancesRequest).instances -> Instance;
    /// Lists databases to the end, or the first `limit`.
    all_databases = list_databases(ListDatabasesRequest).databases -> Database;
    /// Lists change streams to the end, or the first `limit`.
    all_change_streams = list_change_streams(ListChangeStreamsRequest).change_streams -> ChangeStream;
    /// Lists operations to the end, or the first `limit`.
    all_operations = list_operations(ListOperationsRequest).operations -> Operation;
    /// Lists audit records to the end, or the first `limit`.
    all_audit_records = list_audit_records(ListAuditRecordsRequest).audit_records -> AuditRecord;
}

impl Client {
    /// Asks for the cancellation of an operation. Not tried again.
    ///
    /// # Errors
    /// As the method says in the protos.
    pub async fn cancel_operation(&self, request: CancelOperationRequest) -> Result<()> {
        let call = |channel: Channel| {
            let request = self.bounded(request.clone());
            async move {
                OperationsClient::new(channel)
                    .cancel_operation(request)
                    .await
            }
        };
        self.retried(call, Retries::None).await
    }

    /// Forgets a finished operation. Not tried again.
    ///
    /// # Errors
    /// As the method says in the protos.
    pub async fn delete_operation(&self, request: DeleteOperationRequest) -> Result<()> {
        let call = |channel: Channel| {
            let request = self.bounded(request.clone());
            async move {
                OperationsClient::new(channel)
                    .delete_operation(request)
                    .await
            }
        };
        self.retried(call, Retries::None).await
    }

    /// Follows changes. Not tried again: a temporary stream cannot be resumed.
    ///
    /// # Errors
    /// As the method says in the protos, here or from the stream.
    pub async fn subscribe(&self, request: SubscribeRequest) -> Result<Streaming<ChangeBatch>> {
        let call = |channel: Channel| {
            let request = request.clone();
            async move {
                ChangeStreamServiceClient::new(channel)
                    .subscribe(request)
                    .await
            }
        };
        self.retried(call, Retries::None).await
    }
}
