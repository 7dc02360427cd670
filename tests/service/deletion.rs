//! A deletion checks everything that could make it fail before it drops anything.

use howdah::{
    pb::{
        google::longrunning::Operation,
        v1::{Connection, DeleteDatabaseRequest, Instance},
    },
    pg,
};
use tonic::Code;

use super::rig::{failure, serve, superuser};
use crate::{
    soak::crash::world::{connect, is_success},
    support::howdah::{Howdah, create_instance, instance_name},
};

async fn delete(howdah: &Howdah, id: &str, force: bool) -> Operation {
    let request = DeleteDatabaseRequest {
        name: format!("{}/databases/{id}", instance_name("orders")),
        force,
        ..DeleteDatabaseRequest::default()
    };
    let accepted = howdah.databases().await.delete_database(request).await;
    howdah.wait(accepted.unwrap().get_ref()).await
}

async fn refused(howdah: &Howdah, id: &str, force: bool, why: &str, named: &str) {
    let operation = delete(howdah, id, force).await;
    assert_eq!(failure(&operation), (Code::FailedPrecondition, why.into()));
    let told = format!("{:?}", operation.result);
    assert!(told.contains(named), "{told}");
}

async fn run(connection: &Connection, sql: &str) {
    connect(connection).await.batch_execute(sql).await.unwrap();
}

async fn count(client: &pg::Client, from: &str) -> i64 {
    let sql = format!("select count(*) from {from}");
    client.query_one(&sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_is_named_and_rolled_back_by_force() {
    let howdah = serve().await;
    let instance = Instance {
        parameters: [("max_prepared_transactions".into(), "5".into())].into(),
        ..Instance::default()
    };
    let request = create_instance("orders", instance);
    let accepted = howdah.instances().await.create_instance(request).await;
    assert!(is_success(&howdah.wait(accepted.unwrap().get_ref()).await));
    let shop = howdah.database("orders", "shop").await;
    run(&shop, "create table items (id int)").await;
    let sql = "begin; insert into items values (1); prepare transaction 'it''s mine'";
    run(&shop, sql).await;
    refused(
        &howdah,
        "shop",
        false,
        "DATABASE_IN_USE",
        "1 prepared transactions",
    )
    .await;
    run(&shop, "insert into items values (2)").await;
    assert!(is_success(&delete(&howdah, "shop", true).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_owner_has_elsewhere_is_named_and_dropped_by_force() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let shop = howdah.database("orders", "shop").await;
    let billing = howdah.database("orders", "billing").await;
    // Before `billing` in every order of names.
    let archive = howdah.database("orders", "archive").await;
    let owner = &shop.user;
    let admin = superuser(&howdah, "orders", &billing.database).await;
    let sql = format!(
        "create table kept (id int); grant select on kept to {owner};
         create table owned (id int); alter table owned owner to {owner}"
    );
    admin.batch_execute(&sql).await.unwrap();
    let other = superuser(&howdah, "orders", &archive.database).await;
    let sql = format!("create table owned (id int); alter table owned owner to {owner}");
    other.batch_execute(&sql).await.unwrap();
    let named = "archive (1 objects), billing (2 objects)";
    refused(&howdah, "shop", false, "ROLE_IN_USE", named).await;
    run(&shop, "create table items (id int)").await;
    let tables = "pg_class where relname in ('kept', 'owned')";
    assert_eq!(count(&admin, tables).await, 2);

    // What others have built on its objects is not dropped with them.
    let view = "create view built as select * from owned";
    admin.batch_execute(view).await.unwrap();
    let (code, why) = failure(&delete(&howdah, "shop", true).await);
    assert_eq!(
        (code, why.as_str()),
        (Code::FailedPrecondition, "POSTGRESQL_REFUSED")
    );
    run(&shop, "insert into items values (1)").await;
    assert_eq!(
        count(&other, tables).await,
        1,
        "in all databases or in none"
    );
    admin.batch_execute("drop view built").await.unwrap();

    assert!(is_success(&delete(&howdah, "shop", true).await));
    assert_eq!(count(&admin, tables).await, 1);
    let role = format!("pg_roles where rolname = '{owner}'");
    assert_eq!(count(&admin, &role).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_database_of_the_owner_is_named_and_stays() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let shop = howdah.database("orders", "shop").await;
    let admin = superuser(&howdah, "orders", "postgres").await;
    let sql = format!("create database theirs owner {}", shop.user);
    admin.batch_execute(&sql).await.unwrap();
    for force in [false, true] {
        refused(
            &howdah,
            "shop",
            force,
            "ROLE_IN_USE",
            "also owns: database theirs",
        )
        .await;
    }
    run(&shop, "create table items (id int)").await;
    admin.batch_execute("drop database theirs").await.unwrap();
    assert!(is_success(&delete(&howdah, "shop", false).await));
}
