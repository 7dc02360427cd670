//! A `local.root` belongs to the metadata that its servers are on record in.

use std::{fs, time::Instant};

use howdah::pb::v1::{GetInstanceRequest, ListInstancesRequest};
use serde_json::Value;

use super::rig::{self, run_sql};
use crate::support::{
    health::{Health, Prober},
    howdah::{Howdah, Options, PROJECT, eventually, instance_name},
    metadata_server::{DATABASE, MetadataServer, ROLE},
};

/// Everything that a command printed, and whether it succeeded.
fn run(howdah: &Howdah, words: &[&str]) -> (bool, String) {
    let output = howdah.run(words, "");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.success(), text.concat())
}

#[track_caller]
fn refused(howdah: &Howdah, words: &[&str], reason: &str) {
    let (success, text) = run(howdah, words);
    assert!(!success && text.contains(reason), "{words:?}: {text}");
}

async fn server_uid(howdah: &Howdah) -> String {
    let request = GetInstanceRequest {
        name: instance_name("orders"),
    };
    let found = howdah.instances().await.get_instance(request).await;
    found.unwrap().into_inner().servers[0].uid.clone()
}

/// Another installation with its own metadata, by mistake with the root of the first one.
async fn with_the_root_of(first: &Howdah) -> Howdah {
    let root = first.data_dir().join("local");
    let root = root.to_str().unwrap();
    Howdah::new(Options::external().await.with("HOWDAH_LOCAL_ROOT", root))
}

#[tokio::test(flavor = "multi_thread")]
async fn other_metadata_takes_no_server() {
    let first = Howdah::serve(Options::external().await).await;
    first.instance("orders").await;
    let shop = first.database("orders", "shop").await;
    let uid = server_uid(&first).await;
    let entry = format!("trash/{uid}.1700000000");
    fs::create_dir_all(first.data_dir().join("local").join(&entry).join("data")).unwrap();

    let second = with_the_root_of(&first).await;
    refused(&second, &["serve"], "LOCAL_ROOT_MISMATCH");
    for words in [
        &["trash", "throw", &uid][..],
        &["trash", "empty", "--all"],
        &["trash", "empty", &uid],
    ] {
        refused(&second, words, "LOCAL_ROOT_MISMATCH");
    }
    refused(&second, &["metadata", "adopt-root"], "DATA_DIR_IN_USE");
    let output = second.run(&["doctor", "-o", "json"], "");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = found["findings"].as_array().unwrap().iter();
    let mut found = found.filter(|finding| finding["check"] == "servers on record");
    assert_eq!(found.next().unwrap()["status"], "fail");

    assert_eq!(run_sql(&shop, "select 1"), "1\n");
    assert!(first.data_dir().join("local").join(&entry).is_dir());
    assert!(run(&first, &["trash", "empty", "--all"]).0);
}

/// Embedded metadata that was lost with its backups, and made anew.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_made_anew_adopts_the_root() {
    let mut howdah = Howdah::serve(Options::default()).await;
    howdah.instance("orders").await;
    let shop = howdah.database("orders", "shop").await;
    let uid = server_uid(&howdah).await;
    howdah.stop().await;
    let data_dir = howdah.data_dir();
    fs::rename(data_dir.join("metadata"), data_dir.join("metadata.old")).unwrap();
    fs::remove_file(data_dir.join("metadata.engine")).unwrap();
    refused(&howdah, &["serve"], "LOCAL_ROOT_MISMATCH");
    // The same where the file was lost too.
    let file = data_dir.join("local/metadata-id");
    let former = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    refused(&howdah, &["serve"], "LOCAL_ROOT_MISMATCH");
    refused(&howdah, &["trash", "throw", &uid], "DATA_DIR_DAMAGED");
    fs::write(&file, &former).unwrap();

    let output = howdah.run(&["metadata", "adopt-root", "-o", "json"], "");
    assert!(output.status.success(), "{output:?}");
    let adopted: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(adopted["formerMetadata"], former.trim());
    howdah.start("").await;
    let request = ListInstancesRequest {
        parent: PROJECT.into(),
        ..ListInstancesRequest::default()
    };
    let listed = howdah.instances().await.list_instances(request).await;
    assert!(listed.unwrap().into_inner().instances.is_empty());
    assert_eq!(run_sql(&shop, "select 1"), "1\n");
    let (thrown, text) = run(&howdah, &["trash", "throw", &uid]);
    assert!(thrown, "{text}");
    assert_eq!(howdah.servers().len(), 0);
}

/// The metadata database is exchanged for that of another installation, under a process that
/// serves, and is put back.
#[tokio::test(flavor = "multi_thread")]
async fn other_metadata_after_an_outage_is_not_used() {
    let metadata = MetadataServer::start().await;
    let first = Howdah::serve(metadata.options()).await;
    first.instance("orders").await;
    metadata
        .administer(&format!(
            "create database other owner {ROLE} template template0"
        ))
        .await;
    let mut options = metadata.options();
    let url = metadata.url_past_the_proxy();
    let (server, _) = url.rsplit_once('/').unwrap();
    options.database_url = Some(format!("{server}/other"));
    Howdah::serve(options).await.stop().await;

    let prober = Prober::of(&first).await;
    let exchange = async |from: &str, to: &str| {
        let sql = format!("alter database {DATABASE} allow_connections false");
        metadata.administer(&sql).await;
        metadata.terminate().await;
        for sql in [
            format!("alter database {DATABASE} rename to {to}"),
            format!("alter database {from} rename to {DATABASE}"),
            format!("alter database {DATABASE} allow_connections true"),
        ] {
            metadata.administer(&sql).await;
        }
        Instant::now()
    };
    let since = exchange("other", "kept").await;
    prober.becomes(Health::DOWN, since).await;
    eventually("it says why", async || {
        first.log().contains("LOCAL_ROOT_MISMATCH")
    })
    .await;
    let request = GetInstanceRequest {
        name: instance_name("orders"),
    };
    let answer = first.instances().await.get_instance(request).await;
    rig::refused(answer, tonic::Code::Unavailable, "METADATA_UNAVAILABLE");
    let since = exchange("kept", "other").await;
    prober.becomes(Health::UP, since).await;
    server_uid(&first).await;
}
