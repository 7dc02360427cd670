//! `validate_only`: the same checks, the would-be answer, and nothing changed.

use howdah::pb::{
    google::longrunning::Operation,
    v1::{
        CreateDatabaseRequest, CreateInstanceRequest, Database, DeleteDatabaseRequest,
        DeleteInstanceRequest, Instance, OperationMetadata, RestartInstanceRequest,
        StartInstanceRequest, StopInstanceRequest, UndeleteInstanceRequest, instance::State,
        operation_metadata::stage,
    },
};
use tonic::{
    Code::{AlreadyExists, FailedPrecondition, InvalidArgument},
    Response, Status,
};

use super::rig::{Metadata, refused, serve};
use crate::support::howdah::{Howdah, create_database, create_instance, instance_name, succeeded};

/// An answer that was only thought of: done, without a name, nothing begun.
fn imagined<T: prost::Message + prost::Name + Default>(
    answer: Result<Response<Operation>, Status>,
) -> T {
    let operation = answer.unwrap().into_inner();
    assert!(operation.done);
    assert_eq!(operation.name, "");
    let any = operation.metadata.as_ref().unwrap();
    let metadata: OperationMetadata = prost::Message::decode(any.value.as_slice()).unwrap();
    assert!(!metadata.target.is_empty());
    for stage in metadata.stages {
        assert_eq!(stage.state(), stage::State::Pending);
    }
    succeeded(&operation)
}

macro_rules! change {
    ($howdah:ident, $method:ident, $request:ident) => {{
        let request = $request {
            name: instance_name("orders"),
            validate_only: true,
            ..$request::default()
        };
        $howdah.instances().await.$method(request).await
    }};
}

async fn creates_nothing(howdah: &Howdah) {
    let instance = Instance {
        version: "15".into(),
        parameters: [("work_mem".into(), "8MB".into())].into(),
        ephemeral: true,
        ..Instance::default()
    };
    let request = CreateInstanceRequest {
        validate_only: true,
        ..create_instance("orders", instance.clone())
    };
    let mut instances = howdah.instances().await;
    let would_be: Instance = imagined(instances.create_instance(request).await);
    assert_eq!(would_be.name, instance_name("orders"));
    assert_eq!(would_be.parameters, instance.parameters);
    assert_eq!(would_be.servers.len(), 1);
    assert!(would_be.create_time.is_some());
    assert!(!would_be.uid.is_empty());
    // It is checked all the same.
    let wrong = Instance {
        parameters: [("work_mem".into(), "no".into())].into(),
        ..instance
    };
    let request = CreateInstanceRequest {
        validate_only: true,
        ..create_instance("orders", wrong)
    };
    let answer = instances.create_instance(request).await;
    refused(answer, InvalidArgument, "PARAMETER_INVALID");
}

#[tokio::test]
async fn nothing_is_created() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    creates_nothing(&howdah).await;
    assert_eq!(metadata.content().await, before);
    assert_eq!(howdah.local("servers"), Vec::<String>::new());
}

#[tokio::test]
async fn nothing_is_changed() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let servers = howdah.servers();

    let _: Instance = imagined(change!(howdah, stop_instance, StopInstanceRequest));
    let _: Instance = imagined(change!(howdah, restart_instance, RestartInstanceRequest));
    let same: Instance = imagined(change!(howdah, start_instance, StartInstanceRequest));
    assert_eq!(same.state(), State::Ready);
    refused(
        change!(howdah, undelete_instance, UndeleteInstanceRequest),
        FailedPrecondition,
        "INSTANCE_NOT_DELETED",
    );
    refused(
        change!(howdah, delete_instance, DeleteInstanceRequest),
        FailedPrecondition,
        "INSTANCE_HAS_DATABASES",
    );
    let request = DeleteInstanceRequest {
        name: instance_name("orders"),
        force: true,
        validate_only: true,
        ..DeleteInstanceRequest::default()
    };
    let answer = howdah.instances().await.delete_instance(request).await;
    let _: Instance = imagined(answer);

    let mut databases = howdah.databases().await;
    let request = CreateDatabaseRequest {
        validate_only: true,
        ..create_database("orders", "other")
    };
    let would_be: Database = imagined(databases.create_database(request).await);
    assert_eq!(would_be.owner, "other_user");
    let request = CreateDatabaseRequest {
        validate_only: true,
        ..create_database("orders", "shop")
    };
    let answer = databases.create_database(request).await;
    refused(answer, AlreadyExists, "DATABASE_EXISTS");
    let request = DeleteDatabaseRequest {
        name: format!("{}/databases/shop", instance_name("orders")),
        validate_only: true,
        ..DeleteDatabaseRequest::default()
    };
    let _: () = imagined(databases.delete_database(request).await);

    assert_eq!(metadata.content().await, before);
    assert_eq!(howdah.servers(), servers);
}

/// A check does not use the request's id up.
#[tokio::test]
async fn the_request_id_stays_free() {
    let howdah = serve().await;
    let mut request = CreateInstanceRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        validate_only: true,
        ..create_instance(
            "orders",
            Instance {
                ephemeral: true,
                ..Instance::default()
            },
        )
    };
    let mut instances = howdah.instances().await;
    let _: Instance = imagined(instances.create_instance(request.clone()).await);
    request.validate_only = false;
    let operation = instances.create_instance(request).await.unwrap();
    let _: Instance = succeeded(&howdah.wait(operation.get_ref()).await);
}
