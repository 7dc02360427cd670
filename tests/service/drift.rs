//! What others change on a server, or in the way of an operation, does no harm.

use howdah::pb::v1::{
    Connection, Database, DeleteDatabaseRequest, DeleteInstanceRequest, GetDatabaseRequest,
    Instance, StartInstanceRequest, StopInstanceRequest, database, instance::State,
};
use tonic::Code;

use super::rig::{Metadata, failure, refused, run_sql, serve, subscribe, superuser};
use crate::soak::crash::world::is_success;
use crate::support::howdah::{
    Howdah, Options, create_database, eventually, instance_name, succeeded,
};

async fn shop(howdah: &Howdah) -> Connection {
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await
}

fn shop_name() -> String {
    format!("{}/databases/shop", instance_name("orders"))
}

const UNDOING: &str = "operations where state = 'UNDOING'";

async fn delete_shop(howdah: &Howdah) -> howdah::pb::google::longrunning::Operation {
    let request = DeleteDatabaseRequest {
        name: shop_name(),
        ..DeleteDatabaseRequest::default()
    };
    let accepted = howdah.databases().await.delete_database(request).await;
    howdah.wait(accepted.unwrap().get_ref()).await
}

async fn state(howdah: &Howdah) -> database::State {
    let request = GetDatabaseRequest { name: shop_name() };
    let found = howdah.databases().await.get_database(request).await;
    found.unwrap().into_inner().state()
}

/// The owner of a database decides what names mean in it; not so for Howdah, which
/// comes as a superuser.
#[tokio::test]
async fn an_owner_does_not_become_superuser_by_names() {
    let howdah = serve().await;
    let shop = shop(&howdah).await;
    run_sql(
        &shop,
        "create table public.items (id int primary key);
         create schema evil;
         create function evil.seize() returns boolean language plpgsql as $$ begin
            execute 'alter role shop_user superuser';
            return true;
         exception when others then return true; end $$;
         create view evil.pg_stat_activity as
            select *, evil.seize() as seized from pg_catalog.pg_stat_activity;
         create view evil.pg_publication as
            select * from pg_catalog.pg_publication where evil.seize();
         create view evil.pg_class as select * from pg_catalog.pg_class where evil.seize();
         grant usage on schema evil to public;
         grant select on all tables in schema evil to public;
         alter database shop set search_path = evil, pg_catalog, public;
         alter role shop_user set search_path = evil, pg_catalog, public;",
    );
    drop(subscribe(&howdah, &shop).await);
    // The sweep has been there when another subscription has ended, too.
    drop(subscribe(&howdah, &shop).await);
    let metadata = Metadata::of(&howdah).await;
    crate::support::howdah::eventually("the subscriptions are swept", async || {
        metadata.count("subscriptions").await == 0
    })
    .await;
    let client = superuser(&howdah, "orders", "postgres").await;
    let sql = "select rolsuper from pg_roles where rolname = 'shop_user'";
    let superuser: bool = client.query_one(sql, &[]).await.unwrap().get(0);
    assert!(!superuser);
}

/// Settings of an instance that would hold up or refuse the SQL of Howdah itself.
#[tokio::test]
async fn parameters_do_not_stand_in_the_way_of_databases() {
    let howdah = serve().await;
    let parameters = [
        ("synchronous_standby_names", "nobody"),
        ("statement_timeout", "1"),
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
    ];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let request = crate::support::howdah::create_instance(
        "orders",
        Instance {
            parameters: parameters.into(),
            ..Instance::default()
        },
    );
    let accepted = howdah.instances().await.create_instance(request).await;
    let done = howdah.wait(accepted.unwrap().get_ref()).await;
    assert_eq!(succeeded::<Instance>(&done).state(), State::Ready);
    howdah.database("orders", "shop").await;
    delete_shop(&howdah).await;
}

#[tokio::test]
async fn a_database_of_somebody_else_is_not_dropped() {
    let howdah = serve().await;
    let shop = shop(&howdah).await;
    let client = superuser(&howdah, "orders", "postgres").await;
    let sql = "alter database shop owner to howdah_admin";
    client.batch_execute(sql).await.unwrap();
    let (code, reason) = failure(&delete_shop(&howdah).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::FailedPrecondition, "OWNERSHIP_LOST")
    );
    assert_eq!(state(&howdah).await, database::State::Ready);
    let sql = "grant connect on database shop to shop_user";
    client.batch_execute(sql).await.unwrap();
    assert_eq!(run_sql(&shop, "select 1").trim(), "1");

    let sql = "alter database shop owner to shop_user";
    client.batch_execute(sql).await.unwrap();
    assert!(is_success(&delete_shop(&howdah).await));
}

/// The database is gone and its role has to stay for now: that is told, and the rest of
/// the deletion can be had later.
#[tokio::test]
async fn a_deletion_that_stops_half_way_is_no_ready_database() {
    let slow = "database.delete.database.after_sql=1*sleep(4000)";
    let options = Options::external().await.with("FAILPOINTS", slow);
    let howdah = Howdah::serve(options).await;
    shop(&howdah).await;
    let client = superuser(&howdah, "orders", "postgres").await;
    // After it was looked whether the role can go.
    let sql = "create table kept (); alter table kept owner to shop_user";
    let late = async {
        eventually("the database is gone", async || {
            let there = "select count(*) from pg_database where datname = 'shop'";
            let there = client.query_one(there, &[]).await.unwrap();
            there.get::<_, i64>(0) == 0
        })
        .await;
        client.batch_execute(sql).await.unwrap();
    };
    let (deleted, ()) = tokio::join!(delete_shop(&howdah), late);
    let (code, reason) = failure(&deleted);
    assert_eq!(
        (code, reason.as_str()),
        (Code::FailedPrecondition, "ROLE_IN_USE")
    );
    assert_eq!(state(&howdah).await, database::State::Failed);
    let request = howdah::pb::v1::GetConnectionRequest { name: shop_name() };
    let answer = howdah.databases().await.get_connection(request).await;
    refused(answer, Code::FailedPrecondition, "DATABASE_NOT_READY");

    client.batch_execute("drop table kept").await.unwrap();
    assert!(is_success(&delete_shop(&howdah).await));
    // Everything is free again.
    howdah.database("orders", "shop").await;
}

/// What is being taken back without end on a server that does not come up neither keeps
/// the server down, nor the instance from being stopped or deleted.
#[tokio::test]
async fn an_undo_that_does_not_end_is_not_in_the_way() {
    let howdah = serve().await;
    shop(&howdah).await;
    let metadata = Metadata::of(&howdah).await;
    let request = create_database("orders", "billing");
    let accepted = howdah.databases().await.create_database(request).await;
    howdah.wait(accepted.unwrap().get_ref()).await;
    // As if its creation was being taken back, and the server did not come up. Nobody
    // on this host will do it.
    metadata
        .execute(
            "insert into hosts (id, name) values (gen_random_uuid(), 'another');
             update operations set state = 'UNDOING', end_time = null, response_type = null,
                 response = null,
                 required_host = (select id from hosts where name = 'another')
             where target like '%/billing';
             update instances set state = 'FAILED';
             update servers set wanted = 'STOPPED'",
        )
        .await;
    let request = StartInstanceRequest {
        name: instance_name("orders"),
        ..StartInstanceRequest::default()
    };
    let accepted = howdah.instances().await.start_instance(request).await;
    let done = howdah.wait(accepted.unwrap().get_ref()).await;
    assert_eq!(succeeded::<Instance>(&done).state(), State::Ready);

    let delete = |force| DeleteInstanceRequest {
        name: instance_name("orders"),
        force,
        purge: true,
        ..DeleteInstanceRequest::default()
    };
    let answer = howdah
        .instances()
        .await
        .delete_instance(delete(false))
        .await;
    refused(answer, Code::FailedPrecondition, "INSTANCE_HAS_DATABASES");
    assert_eq!(metadata.count(UNDOING).await, 1, "a refusal ends nothing");

    let request = StopInstanceRequest {
        name: instance_name("orders"),
        ..StopInstanceRequest::default()
    };
    let accepted = howdah.instances().await.stop_instance(request).await;
    let done = howdah.wait(accepted.unwrap().get_ref()).await;
    assert_eq!(succeeded::<Instance>(&done).state(), State::Stopped);
    assert_eq!(metadata.count(UNDOING).await, 1);

    let keep = DeleteInstanceRequest {
        purge: false,
        ..delete(true)
    };
    let accepted = howdah.instances().await.delete_instance(keep).await;
    assert!(is_success(&howdah.wait(accepted.unwrap().get_ref()).await));
    assert_eq!(metadata.count(UNDOING).await, 0);
    let accepted = howdah.instances().await.delete_instance(delete(true)).await;
    assert!(is_success(&howdah.wait(accepted.unwrap().get_ref()).await));
    assert!(howdah.servers().is_empty());
}

/// An encoding that does not exist fails without a trace.
#[tokio::test]
async fn a_refused_database_leaves_its_id_free() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let mut request = create_database("orders", "shop");
    request.database = Some(Database {
        encoding: "EBCDIC".into(),
        ..Database::default()
    });
    let accepted = howdah.databases().await.create_database(request).await;
    let (code, reason) = failure(&howdah.wait(accepted.unwrap().get_ref()).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::FailedPrecondition, "POSTGRESQL_REFUSED")
    );
    howdah.database("orders", "shop").await;
}
