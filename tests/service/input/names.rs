//! Names, ids, versions and request ids.

use howdah::pb::{
    google::longrunning::{
        CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, WaitOperationRequest,
    },
    v1::{
        CreateInstanceRequest, Database, DeleteDatabaseRequest, GetConnectionRequest,
        GetDatabaseRequest, GetInstanceRequest, Instance, ListEnginesRequest,
        RestartInstanceRequest, StartInstanceRequest, StopInstanceRequest, SubscribeRequest,
        UndeleteInstanceRequest,
        instance::{LocalProviderConfig, ProviderConfig},
    },
};
use tonic::Code::{self, InvalidArgument, NotFound};

use crate::{
    service::rig::{Metadata, refused, serve},
    support::howdah::{Howdah, create_database, create_instance, instance_name},
};

/// Names that are none, with the reason.
fn bad_names() -> Vec<(String, &'static str)> {
    let malformed = [
        "",
        "orders",
        "projects",
        "projects/default",
        "projects/default/instances",
        "projects/default/instances/",
        "projects//instances/orders",
        "/projects/default/instances/orders",
        "projects/default/instances/orders/",
        "projects/default/instances/orders/databases/shop/x",
        "projects/default/instance/orders",
        "projects/default/instances/Orders",
        "projects/default/instances/-orders",
        "projects/default/instances/orders-",
        "projects/default/instances/1orders",
        "projects/default/instances/or ders",
        "projects/default/instances/../orders",
        "projects/default/instances/%6frders",
        "projects/default/instances/örders",
        "projects/default/instances/orders\0",
        "projects/default/instances/orders\n",
        "projects/default/instances/*",
        "projects/-/instances/orders",
    ];
    let mut names: Vec<_> = malformed
        .iter()
        .map(|name| ((*name).to_owned(), "NAME_MALFORMED"))
        .collect();
    names.push((instance_name(&"o".repeat(64)), "NAME_TOO_LONG"));
    names.push((instance_name(&"o".repeat(100_000)), "NAME_TOO_LONG"));
    names
}

#[tokio::test]
async fn no_method_takes_a_name_that_is_none() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let mut instances = howdah.instances().await;
    for (name, why) in bad_names() {
        macro_rules! try_all {
            ($($method:ident: $request:ident;)*) => {$(
                let mut request = $request::default();
                request.name = name.clone();
                refused(instances.$method(request).await, InvalidArgument, why);
            )*};
        }
        try_all! {
            get_instance: GetInstanceRequest;
            start_instance: StartInstanceRequest;
            stop_instance: StopInstanceRequest;
            restart_instance: RestartInstanceRequest;
            undelete_instance: UndeleteInstanceRequest;
        }
        let request = SubscribeRequest {
            instance: name,
            database: "shop".into(),
            tables: vec!["items".into()],
            ..SubscribeRequest::default()
        };
        refused(
            howdah.streams().await.subscribe(request).await,
            InvalidArgument,
            why,
        );
    }
    assert_eq!(metadata.content().await, before);
}

#[tokio::test]
async fn ids_have_their_form() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let too_long = "o".repeat(64);
    for (id, why) in [
        ("", "NAME_MALFORMED"),
        ("Orders", "NAME_MALFORMED"),
        ("orders_1", "NAME_MALFORMED"),
        ("-", "NAME_MALFORMED"),
        ("o/p", "NAME_MALFORMED"),
        ("o\0", "NAME_MALFORMED"),
        ("日本", "NAME_MALFORMED"),
        (&too_long, "NAME_TOO_LONG"),
    ] {
        let request = create_instance(id, Instance::default());
        let answer = howdah.instances().await.create_instance(request).await;
        refused(answer, InvalidArgument, why);
        let request = create_database("orders", id);
        let answer = howdah.databases().await.create_database(request).await;
        refused(answer, InvalidArgument, why);
    }
    assert_eq!(metadata.content().await, before);
}

#[tokio::test]
async fn what_does_not_exist_is_said_to_be_missing() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let mut instances = howdah.instances().await;
    let mut databases = howdah.databases().await;
    let missing = instance_name("missing");
    let name = missing.clone();
    let answer = instances.get_instance(GetInstanceRequest { name }).await;
    refused(answer, NotFound, "INSTANCE_NOT_FOUND");
    let request = StopInstanceRequest {
        name: missing.clone(),
        ..StopInstanceRequest::default()
    };
    let answer = instances.stop_instance(request).await;
    refused(answer, NotFound, "INSTANCE_NOT_FOUND");
    let answer = databases
        .create_database(create_database("missing", "shop"))
        .await;
    refused(answer, NotFound, "INSTANCE_NOT_FOUND");
    let name = format!("{missing}/databases/shop");
    let request = GetDatabaseRequest { name: name.clone() };
    let answer = databases.get_database(request).await;
    refused(answer, NotFound, "DATABASE_NOT_FOUND");
    let request = GetConnectionRequest { name: name.clone() };
    let answer = databases.get_connection(request).await;
    refused(answer, NotFound, "DATABASE_NOT_FOUND");
    let request = DeleteDatabaseRequest {
        name,
        ..DeleteDatabaseRequest::default()
    };
    // Its instance is missing too, and is looked for first.
    let answer = databases.delete_database(request).await;
    refused(answer, NotFound, "INSTANCE_NOT_FOUND");
    let request = CreateInstanceRequest {
        parent: "projects/missing".into(),
        ..create_instance("orders", Instance::default())
    };
    let answer = instances.create_instance(request).await;
    refused(answer, NotFound, "PROJECT_NOT_FOUND");
    assert_eq!(metadata.content().await, before);
}

#[tokio::test]
async fn operations_are_named_by_their_ids() {
    let howdah = serve().await;
    let mut operations = howdah.operations().await;
    let nobody = format!("projects/default/operations/{}", uuid::Uuid::nil());
    for (name, code, why) in [
        ("", InvalidArgument, "NAME_MALFORMED"),
        (
            "projects/default/operations/x",
            InvalidArgument,
            "NAME_MALFORMED",
        ),
        (nobody.as_str(), NotFound, "OPERATION_NOT_FOUND"),
    ] {
        let name = name.to_owned();
        let request = GetOperationRequest { name: name.clone() };
        refused(operations.get_operation(request).await, code, why);
        let request = CancelOperationRequest { name: name.clone() };
        refused(operations.cancel_operation(request).await, code, why);
        let request = DeleteOperationRequest { name: name.clone() };
        refused(operations.delete_operation(request).await, code, why);
        let request = WaitOperationRequest {
            name,
            timeout: None,
        };
        refused(operations.wait_operation(request).await, code, why);
    }
}

async fn create(howdah: &Howdah, instance: Instance, code: Code, why: &str) {
    let request = create_instance("orders", instance);
    refused(
        howdah.instances().await.create_instance(request).await,
        code,
        why,
    );
}

#[tokio::test]
async fn versions_are_numbers_and_installed() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let long = "1".repeat(1000);
    for malformed in [
        "x", "9", "15.", "15.x", "15.1.1", "-15", "15beta", "99999", "15\0", " 15", &long,
    ] {
        let instance = Instance {
            version: malformed.into(),
            ..Instance::default()
        };
        create(&howdah, instance, InvalidArgument, "VERSION_MALFORMED").await;
    }
    for unknown in ["99", "15.999", "10"] {
        let instance = Instance {
            version: unknown.into(),
            ..Instance::default()
        };
        create(
            &howdah,
            instance,
            Code::FailedPrecondition,
            "VERSION_NOT_INSTALLED",
        )
        .await;
    }
    assert_eq!(metadata.content().await, before);
}

#[tokio::test]
async fn hosts_exist() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let on = |host: &str| Instance {
        provider_config: Some(ProviderConfig::Local(LocalProviderConfig {
            host: host.into(),
        })),
        ..Instance::default()
    };
    create(&howdah, on("nowhere"), InvalidArgument, "FIELD_INVALID").await;
    let nobody = uuid::Uuid::new_v4().to_string();
    create(&howdah, on(&nobody), NotFound, "HOST_NOT_FOUND").await;
    assert_eq!(metadata.content().await, before);
}

#[tokio::test]
async fn request_ids_are_uuids() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let long = "0".repeat(10_000);
    for id in ["x", "1234", "00000000-0000-0000-0000-00000000000g", &long] {
        let request = CreateInstanceRequest {
            request_id: id.into(),
            ..create_instance("orders", Instance::default())
        };
        let answer = howdah.instances().await.create_instance(request).await;
        refused(answer, InvalidArgument, "REQUEST_ID_MALFORMED");
        let request = DeleteDatabaseRequest {
            name: format!("{}/databases/shop", instance_name("orders")),
            request_id: id.into(),
            ..DeleteDatabaseRequest::default()
        };
        let answer = howdah.databases().await.delete_database(request).await;
        refused(answer, InvalidArgument, "REQUEST_ID_MALFORMED");
    }
    assert_eq!(metadata.content().await, before);
}

#[tokio::test]
async fn postgresql_names_are_never_cut() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let long = "n".repeat(64);
    // With `_user` it would be too long for its owner.
    let almost = "n".repeat(59);
    for (name, owner, code, why) in [
        (long.as_str(), "", InvalidArgument, "NAME_TOO_LONG"),
        (almost.as_str(), "", InvalidArgument, "NAME_TOO_LONG"),
        ("shop", long.as_str(), InvalidArgument, "NAME_TOO_LONG"),
        ("sh\0op", "", InvalidArgument, "NAME_MALFORMED"),
        ("shop", "o\0", InvalidArgument, "NAME_MALFORMED"),
        ("shop", "pg_me", InvalidArgument, "FIELD_INVALID"),
        ("shop", "public", InvalidArgument, "FIELD_INVALID"),
        ("shop", "howdah_admin", InvalidArgument, "FIELD_INVALID"),
        ("postgres", "", Code::AlreadyExists, "DATABASE_EXISTS"),
        ("template1", "", Code::AlreadyExists, "DATABASE_EXISTS"),
    ] {
        let mut request = create_database("orders", "shop");
        request.database = Some(Database {
            postgresql_name: name.into(),
            owner: owner.into(),
            ..Database::default()
        });
        let answer = howdah.databases().await.create_database(request).await;
        refused(answer, code, why);
    }
    assert_eq!(metadata.content().await, before);
}

#[tokio::test]
async fn engines_are_of_a_project() {
    let howdah = serve().await;
    let request = ListEnginesRequest {
        parent: "nowhere".into(),
    };
    let answer = howdah.instances().await.list_engines(request).await;
    refused(answer, InvalidArgument, "NAME_MALFORMED");
}
