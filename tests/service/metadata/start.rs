//! A start that meets a metadata database as it should not be.

use std::time::Duration;

use crate::{
    service::rig::Metadata,
    support::{
        health::{Health, Prober},
        howdah::{Howdah, Options},
        metadata_server::{DATABASE, MetadataServer},
        postgres::{PASSWORD, SUPERUSER, server},
    },
};

/// Longer than a statement waits for a lock.
const HELD: Duration = Duration::from_secs(8);

/// Somebody holds what the start needs, and lets it go in the end.
async fn waits_for(lock: &str) {
    let mut howdah = Howdah::serve(Options::external().await).await;
    howdah.stop().await;
    let metadata = Metadata::of(&howdah).await;
    metadata.execute(&format!("begin; {lock}")).await;
    howdah.spawn("");
    tokio::time::sleep(HELD).await;
    let endpoint = howdah.data_dir().join("endpoint");
    assert!(!endpoint.exists(), "it does not need what is locked");
    metadata.execute("rollback").await;
    howdah.ready().await;
    assert_eq!(Prober::of(&howdah).await.ask().await, Health::UP);
    howdah.instance("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_is_waited_for() {
    waits_for("lock table hosts in access exclusive mode").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_is_waited_for() {
    waits_for("select from hosts for update").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_key_is_waited_for() {
    waits_for("lock table sealing_keys in access exclusive mode").await;
}

/// The way to the metadata, or what is at its end, is wrong for a while.
async fn waits_while(
    wrong: impl AsyncFnOnce(&mut MetadataServer),
    right: impl AsyncFnOnce(&mut MetadataServer),
) {
    let mut metadata = MetadataServer::start().await;
    let mut howdah = Howdah::serve(metadata.options()).await;
    howdah.stop().await;
    wrong(&mut metadata).await;
    howdah.spawn("");
    tokio::time::sleep(HELD).await;
    let endpoint = howdah.data_dir().join("endpoint");
    assert!(!endpoint.exists(), "it serves without its metadata");
    right(&mut metadata).await;
    howdah.ready().await;
    assert_eq!(Prober::of(&howdah).await.ask().await, Health::UP);
    howdah.instance("orders").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_waited_for() {
    let wrong = async |metadata: &mut MetadataServer| metadata.proxy.lose();
    waits_while(wrong, async |metadata| metadata.proxy.pass()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_waited_for() {
    let mut standby = None;
    let wrong = async |metadata: &mut MetadataServer| {
        let copy = tokio::task::block_in_place(|| metadata.server.standby());
        metadata.proxy.upstream(copy.port);
        standby = Some(copy);
    };
    let right = async |metadata: &mut MetadataServer| {
        metadata.proxy.upstream(metadata.server.port);
    };
    waits_while(wrong, right).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_admits_nobody_is_waited_for() {
    let wrong = async |metadata: &mut MetadataServer| {
        let sql = format!("alter database {DATABASE} allow_connections false");
        metadata.administer(&sql).await;
    };
    let right = async |metadata: &mut MetadataServer| {
        let sql = format!("alter database {DATABASE} allow_connections true");
        metadata.administer(&sql).await;
    };
    waits_while(wrong, right).await;
}

/// Text that Howdah stores is Unicode: another encoding would refuse some of it later.
async fn refuses(encoding: &str) {
    let server = server(15);
    let name = format!("metadata_{}", encoding.to_lowercase());
    let sql = format!(
        "create database {name} template template0 encoding '{encoding}' lc_collate 'C' lc_ctype 'C'"
    );
    let client = server.client("postgres").await;
    client.batch_execute(&sql).await.unwrap();
    let port = server.port;
    let url = format!("postgres://{SUPERUSER}:{PASSWORD}@127.0.0.1:{port}/{name}");
    let options = Options {
        database_url: Some(url),
        environment: Vec::new(),
    };
    let mut howdah = Howdah::new(options);
    howdah.spawn("");
    let status = howdah.ended().await;
    let log = howdah.log();
    assert!(!status.success(), "{log}");
    assert!(log.contains("METADATA_UNSUITABLE"), "{log}");
    assert!(log.contains(encoding), "{log}");
    let client = server.client(&name).await;
    let tables = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
    let tables = client.query_one(tables, &[]).await.unwrap();
    assert_eq!(tables.get::<_, i64>(0), 0, "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn latin1_is_refused() {
    refuses("LATIN1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_ascii_is_refused() {
    refuses("SQL_ASCII").await;
}
