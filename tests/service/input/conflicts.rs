//! Requests that are well formed and do not fit what is there.

use howdah::pb::{
    google::longrunning::DeleteOperationRequest,
    v1::{
        Database, DeleteDatabaseRequest, DeleteInstanceRequest, GetConnectionRequest, Instance,
        RestartInstanceRequest, StartInstanceRequest, StopInstanceRequest, SubscribeRequest,
        UndeleteInstanceRequest,
    },
};
use tonic::Code::{Aborted, AlreadyExists, FailedPrecondition};
use tonic_types::StatusExt as _;

use crate::{
    service::rig::{Metadata, failure, refused, serve, superuser},
    support::howdah::{
        Howdah, create_database, create_instance, eventually, instance_name, succeeded,
    },
};

fn delete(id: &str) -> DeleteInstanceRequest {
    DeleteInstanceRequest {
        name: instance_name(id),
        ..DeleteInstanceRequest::default()
    }
}

fn drop_database(instance: &str, id: &str) -> DeleteDatabaseRequest {
    DeleteDatabaseRequest {
        name: format!("{}/databases/{id}", instance_name(instance)),
        ..DeleteDatabaseRequest::default()
    }
}

fn stop(id: &str) -> StopInstanceRequest {
    StopInstanceRequest {
        name: instance_name(id),
        ..StopInstanceRequest::default()
    }
}

#[tokio::test]
async fn ids_are_taken_once() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let mut databases = howdah.databases().await;
    let request = create_instance("orders", Instance::default());
    let answer = howdah.instances().await.create_instance(request).await;
    refused(answer, AlreadyExists, "INSTANCE_EXISTS");
    let answer = databases
        .create_database(create_database("orders", "shop"))
        .await;
    refused(answer, AlreadyExists, "DATABASE_EXISTS");
    let mut request = create_database("orders", "shop2");
    request.database = Some(Database {
        postgresql_name: "shop".into(),
        owner: "somebody".into(),
        ..Database::default()
    });
    let answer = databases.create_database(request).await;
    refused(answer, AlreadyExists, "DATABASE_EXISTS");
    let mut request = create_database("orders", "shop2");
    request.database = Some(Database {
        owner: "shop_user".into(),
        ..Database::default()
    });
    let answer = databases.create_database(request).await;
    refused(answer, AlreadyExists, "ROLE_EXISTS");
    assert_eq!(metadata.content().await, before);
}

#[tokio::test]
async fn etags_must_match() {
    let howdah = serve().await;
    let instance = howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let mut instances = howdah.instances().await;
    for etag in ["x", "\"1\"", "\0", &format!("{}x", instance.etag)] {
        let (name, etag) = (instance.name.clone(), etag.to_owned());
        let request = DeleteInstanceRequest {
            etag: etag.clone(),
            force: true,
            ..delete("orders")
        };
        let answer = instances.delete_instance(request).await;
        refused(answer, Aborted, "ETAG_MISMATCH");
        let request = StopInstanceRequest {
            etag: etag.clone(),
            ..stop("orders")
        };
        let answer = instances.stop_instance(request).await;
        refused(answer, Aborted, "ETAG_MISMATCH");
        let request = RestartInstanceRequest {
            name,
            etag: etag.clone(),
            ..RestartInstanceRequest::default()
        };
        let answer = instances.restart_instance(request).await;
        refused(answer, Aborted, "ETAG_MISMATCH");
        let request = DeleteDatabaseRequest {
            etag,
            ..drop_database("orders", "shop")
        };
        let answer = howdah.databases().await.delete_database(request).await;
        refused(answer, Aborted, "ETAG_MISMATCH");
    }
    assert_eq!(metadata.content().await, before);
}

#[tokio::test]
async fn protected_and_occupied_instances_stay() {
    let howdah = serve().await;
    let protected = Instance {
        deletion_protection: true,
        ephemeral: true,
        ..Instance::default()
    };
    let request = create_instance("protected", protected);
    let operation = howdah.instances().await.create_instance(request).await;
    let _: Instance = succeeded(&howdah.wait(operation.unwrap().get_ref()).await);
    howdah.instance("orders").await;
    let mut request = create_database("orders", "shop");
    request.database = Some(Database {
        deletion_protection: true,
        ..Database::default()
    });
    let operation = howdah.databases().await.create_database(request).await;
    let _: Database = succeeded(&howdah.wait(operation.unwrap().get_ref()).await);

    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let mut instances = howdah.instances().await;
    let answer = instances.delete_instance(delete("protected")).await;
    refused(answer, FailedPrecondition, "DELETION_PROTECTED");
    let request = DeleteInstanceRequest {
        purge: true,
        ..delete("protected")
    };
    let answer = instances.delete_instance(request).await;
    refused(answer, FailedPrecondition, "DELETION_PROTECTED");
    let answer = instances.delete_instance(delete("orders")).await;
    refused(answer, FailedPrecondition, "INSTANCE_HAS_DATABASES");
    let request = drop_database("orders", "shop");
    let answer = howdah.databases().await.delete_database(request).await;
    refused(answer, FailedPrecondition, "DELETION_PROTECTED");
    let request = UndeleteInstanceRequest {
        name: instance_name("orders"),
        ..UndeleteInstanceRequest::default()
    };
    let answer = instances.undelete_instance(request).await;
    refused(answer, FailedPrecondition, "INSTANCE_NOT_DELETED");
    assert_eq!(metadata.content().await, before);
}

#[tokio::test]
async fn deleted_and_stopped_instances_do_no_work() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let shop = howdah.database("orders", "shop").await;
    let mut instances = howdah.instances().await;
    let operation = instances.stop_instance(stop("orders")).await.unwrap();
    let _: Instance = succeeded(&howdah.wait(operation.get_ref()).await);
    let answer = howdah
        .databases()
        .await
        .create_database(create_database("orders", "other"))
        .await;
    refused(answer, FailedPrecondition, "INSTANCE_NOT_READY");
    let request = SubscribeRequest {
        instance: instance_name("orders"),
        database: shop.database,
        tables: vec!["items".into()],
        ..SubscribeRequest::default()
    };
    let answer = howdah.streams().await.subscribe(request).await;
    refused(answer, FailedPrecondition, "INSTANCE_NOT_READY");

    let request = DeleteInstanceRequest {
        force: true,
        ..delete("orders")
    };
    let operation = instances.delete_instance(request).await.unwrap();
    let _: Instance = succeeded(&howdah.wait(operation.get_ref()).await);
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let answer = instances.delete_instance(delete("orders")).await;
    refused(answer, FailedPrecondition, "INSTANCE_DELETED");
    let answer = instances.stop_instance(stop("orders")).await;
    refused(answer, FailedPrecondition, "INSTANCE_DELETED");
    let request = StartInstanceRequest {
        name: instance_name("orders"),
        ..StartInstanceRequest::default()
    };
    let answer = instances.start_instance(request).await;
    refused(answer, FailedPrecondition, "INSTANCE_DELETED");
    let request = create_instance("orders", Instance::default());
    let answer = instances.create_instance(request).await;
    refused(answer, AlreadyExists, "INSTANCE_EXISTS");
    assert_eq!(metadata.content().await, before);
}

/// While an operation works on an instance, nothing else does, and nothing on its
/// databases.
#[tokio::test]
async fn a_busy_instance_is_left_alone() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    let metadata = Metadata::of(&howdah).await;
    metadata.occupy("orders").await;
    let before = metadata.content().await;
    let mut instances = howdah.instances().await;
    let request = DeleteInstanceRequest {
        force: true,
        ..delete("orders")
    };
    let answer = instances.delete_instance(request).await;
    refused(answer, Aborted, "RESOURCE_BUSY");
    let answer = instances.stop_instance(stop("orders")).await;
    // It says which operation that is, and so what to wait for.
    let details = answer.as_ref().unwrap_err().get_error_details();
    let operation = &details.error_info().unwrap().metadata["operation"];
    assert!(
        operation.starts_with("projects/default/operations/"),
        "{operation}"
    );
    refused(answer, Aborted, "RESOURCE_BUSY");
    let mut databases = howdah.databases().await;
    let answer = databases
        .create_database(create_database("orders", "other"))
        .await;
    refused(answer, Aborted, "RESOURCE_BUSY");
    let answer = databases
        .delete_database(drop_database("orders", "shop"))
        .await;
    refused(answer, Aborted, "RESOURCE_BUSY");
    assert_eq!(metadata.content().await, before);
    metadata.release().await;
    let operation = instances.stop_instance(stop("orders")).await.unwrap();
    let _: Instance = succeeded(&howdah.wait(operation.get_ref()).await);
}

/// While a database is being made, its instance stays as it is, and nobody gets a
/// connection.
#[tokio::test]
async fn a_database_in_work_is_left_alone() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let client = superuser(&howdah, "orders", "postgres").await;
    // Until this ends, nobody can make that role.
    client
        .batch_execute("begin; create role shop_user")
        .await
        .unwrap();
    let mut databases = howdah.databases().await;
    let operation = databases
        .create_database(create_database("orders", "shop"))
        .await
        .unwrap()
        .into_inner();
    let name = format!("{}/databases/shop", instance_name("orders"));
    let answer = databases
        .get_connection(GetConnectionRequest { name })
        .await;
    refused(answer, FailedPrecondition, "DATABASE_NOT_READY");
    let answer = databases
        .delete_database(drop_database("orders", "shop"))
        .await;
    refused(answer, Aborted, "RESOURCE_BUSY");
    let request = DeleteOperationRequest {
        name: operation.name.clone(),
    };
    let answer = howdah.operations().await.delete_operation(request).await;
    refused(answer, FailedPrecondition, "OPERATION_NOT_DONE");
    client.batch_execute("rollback").await.unwrap();
    let _: Database = succeeded(&howdah.wait(&operation).await);
}

/// Waits for the failure of a creation, and checks that nothing of it stays.
async fn fails(howdah: &Howdah, request: howdah::pb::v1::CreateDatabaseRequest, why: &str) {
    let answer = howdah.databases().await.create_database(request).await;
    let operation = howdah.wait(answer.unwrap().get_ref()).await;
    assert_eq!(failure(&operation), (AlreadyExists, why.to_owned()));
    let metadata = Metadata::of(howdah).await;
    assert_eq!(metadata.count("databases").await, 0);
    assert_eq!(metadata.count("roles").await, 0);
}

#[tokio::test]
async fn somebody_elses_role_and_database_stay_as_they_are() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let client = superuser(&howdah, "orders", "postgres").await;
    client
        .batch_execute("create role shop_user connection limit 7; create role their_user")
        .await
        .unwrap();
    client
        .batch_execute("create database shop owner their_user")
        .await
        .unwrap();

    fails(&howdah, create_database("orders", "shop"), "ROLE_EXISTS").await;
    let mut request = create_database("orders", "shop");
    request.database = Some(Database {
        owner: "other_user".into(),
        ..Database::default()
    });
    fails(&howdah, request, "DATABASE_EXISTS").await;

    let limit = "select rolconnlimit from pg_roles where rolname = 'shop_user'";
    let limit: i32 = client.query_one(limit, &[]).await.unwrap().get(0);
    assert_eq!(limit, 7);
    let owner = "select pg_get_userbyid(datdba)::text, datacl::text from pg_database
        where datname = 'shop'";
    let row = client.query_one(owner, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "their_user");
    assert_eq!(row.get::<_, Option<String>>(1), None);
    let left = "select count(*) from pg_roles where rolname = 'other_user'";
    let left: i64 = client.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

/// PostgreSQL has the last word; what it refuses is taken back whole.
#[tokio::test]
async fn what_postgresql_refuses_is_taken_back() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    for database in [
        Database {
            encoding: "EBCDIC".into(),
            ..Database::default()
        },
        Database {
            locale: "no_SUCH.locale".into(),
            ..Database::default()
        },
    ] {
        let mut request = create_database("orders", "shop");
        request.database = Some(database);
        let answer = howdah.databases().await.create_database(request).await;
        let operation = howdah.wait(answer.unwrap().get_ref()).await;
        assert_eq!(
            failure(&operation),
            (FailedPrecondition, "POSTGRESQL_REFUSED".to_owned())
        );
    }
    let metadata = Metadata::of(&howdah).await;
    assert_eq!(metadata.count("databases").await, 0);
    let client = superuser(&howdah, "orders", "postgres").await;
    let left = "select count(*) from pg_roles where rolname = 'shop_user'";
    let left: i64 = client.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
    howdah.database("orders", "shop").await;
}

#[tokio::test]
async fn a_database_in_use_is_not_dropped() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    let client = superuser(&howdah, "orders", "shop").await;
    let mut databases = howdah.databases().await;
    let answer = databases
        .delete_database(drop_database("orders", "shop"))
        .await;
    let operation = howdah.wait(answer.unwrap().get_ref()).await;
    assert_eq!(
        failure(&operation),
        (FailedPrecondition, "DATABASE_IN_USE".to_owned())
    );
    client.batch_execute("select 1").await.unwrap();
    drop(client);
    let watcher = superuser(&howdah, "orders", "postgres").await;
    eventually("the session is over", async || {
        let sessions = "select count(*) from pg_stat_activity where datname = 'shop'";
        watcher
            .query_one(sessions, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
    })
    .await;
    let answer = databases
        .delete_database(drop_database("orders", "shop"))
        .await;
    let operation = howdah.wait(answer.unwrap().get_ref()).await;
    let _: () = succeeded(&operation);
}
