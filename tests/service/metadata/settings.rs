//! Settings of the metadata database and of its role that are somebody else's: they
//! have no say in what Howdah's statements do.

use std::collections::BTreeSet;

use futures::future::join_all;
use howdah::pb::{
    google::longrunning::Operation,
    v1::{Database, DeleteDatabaseRequest, GetInstanceRequest, ListDatabasesRequest},
};
use tonic::Status;

use crate::support::{
    howdah::{Howdah, Options, create_database, instance_name, succeeded},
    postgres::server,
};

const INSTANCE: &str = "orders";

/// Databases that are made at once.
const AT_ONCE: usize = 20;

/// Serves from a database in which this SQL was run, and which has these settings.
async fn serves_with(sql: &str, settings: &[(&str, &str)]) {
    let options = Options::external().await;
    let url = options.database_url.clone().unwrap();
    let (_, name) = url.rsplit_once('/').unwrap();
    let client = server(15).client(name).await;
    client.batch_execute(sql).await.unwrap();
    let client = server(15).client("postgres").await;
    for (setting, value) in settings {
        let sql = format!("alter database {name} set {setting} = {value}");
        client.batch_execute(&sql).await.unwrap();
    }
    let howdah = Howdah::serve(options).await;
    howdah.instance(INSTANCE).await;
    howdah.database(INSTANCE, "keeper").await;
    work_at_once(&howdah).await;
}

/// Twenty databases are made at once and dropped at once, and others read meanwhile.
async fn work_at_once(howdah: &Howdah) {
    let ids: Vec<String> = (0..AT_ONCE).map(|number| format!("d{number}")).collect();
    let made = all(howdah, &ids, create).await;
    for operation in &made {
        let _: Database = succeeded(&howdah.wait(operation).await);
    }
    let mut expected: BTreeSet<String> = ids.iter().cloned().collect();
    expected.insert("keeper".into());
    assert_eq!(listed(howdah).await, expected);
    let dropped = all(howdah, &ids, delete).await;
    for operation in &dropped {
        let _: () = succeeded(&howdah.wait(operation).await);
    }
    assert_eq!(listed(howdah).await, BTreeSet::from(["keeper".to_owned()]));
}

/// Sends one call for each id at once; none is refused.
async fn all(
    howdah: &Howdah,
    ids: &[String],
    call: impl AsyncFn(&Howdah, &str) -> Result<Operation, Status>,
) -> Vec<Operation> {
    let call = &call;
    let calls = ids.iter().map(|id| async move {
        let answer = call(howdah, id).await;
        read(howdah).await;
        answer.unwrap_or_else(|status| panic!("{id}: {status:?}"))
    });
    join_all(calls).await
}

async fn create(howdah: &Howdah, id: &str) -> Result<Operation, Status> {
    let request = create_database(INSTANCE, id);
    let answer = howdah.databases().await.create_database(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn delete(howdah: &Howdah, id: &str) -> Result<Operation, Status> {
    let request = DeleteDatabaseRequest {
        name: format!("{}/databases/{id}", instance_name(INSTANCE)),
        ..DeleteDatabaseRequest::default()
    };
    let answer = howdah.databases().await.delete_database(request).await;
    answer.map(tonic::Response::into_inner)
}

async fn read(howdah: &Howdah) {
    let request = GetInstanceRequest {
        name: instance_name(INSTANCE),
    };
    let answer = howdah.instances().await.get_instance(request).await;
    answer.unwrap();
}

async fn listed(howdah: &Howdah) -> BTreeSet<String> {
    let request = ListDatabasesRequest {
        parent: instance_name(INSTANCE),
        page_size: 100,
        ..ListDatabasesRequest::default()
    };
    let page = howdah.databases().await.list_databases(request).await;
    let id = |name: &str| name.rsplit('/').next().unwrap().to_owned();
    let found = page.unwrap().into_inner().databases.into_iter();
    found.map(|database| id(&database.name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn serializable() {
    serves_with("", &[("default_transaction_isolation", "serializable")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeatable_read() {
    let isolation = ("default_transaction_isolation", "'repeatable read'");
    serves_with("", &[isolation]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only() {
    serves_with("", &[("default_transaction_read_only", "on")]).await;
}

/// Tables of the same names, with other columns, in the schema that comes first.
#[tokio::test(flavor = "multi_thread")]
async fn another_schema_first() {
    let decoys = "create schema elsewhere;
         create table elsewhere.instances (id text);
         create table elsewhere.operations (id text);
         create function elsewhere.now() returns timestamptz language sql
            as $$ select timestamptz 'epoch' $$";
    serves_with(decoys, &[("search_path", "elsewhere, pg_catalog, public")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_not_there() {
    serves_with("", &[("search_path", "nowhere")]).await;
}

/// Whatever has a wrong reading in another country or another time.
#[tokio::test(flavor = "multi_thread")]
async fn other_forms_of_values() {
    let settings = [
        ("datestyle", "'SQL, DMY'"),
        ("intervalstyle", "sql_standard"),
        ("timezone", "'Pacific/Chatham'"),
        ("bytea_output", "escape"),
        ("extra_float_digits", "-15"),
        ("standard_conforming_strings", "off"),
        ("client_encoding", "LATIN1"),
        ("row_security", "off"),
        ("synchronous_commit", "off"),
    ];
    serves_with("", &settings).await;
}

/// Bounds that no ordinary statement keeps.
#[tokio::test(flavor = "multi_thread")]
async fn short_timeouts() {
    let settings = [
        ("statement_timeout", "'1ms'"),
        ("lock_timeout", "'1ms'"),
        ("idle_in_transaction_session_timeout", "'1ms'"),
    ];
    serves_with("", &settings).await;
}

/// The server hangs up on sessions that are idle for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn idle_sessions_are_ended() {
    serves_with("", &[("idle_session_timeout", "'300ms'")]).await;
}
