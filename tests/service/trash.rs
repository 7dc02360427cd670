//! `howdah trash`: what a host keeps of removed servers, and servers without a record.

use std::{fs, path::Path, process::Output};

use howdah::pb::v1::{GetInstanceRequest, Instance};
use serde_json::Value;

use super::rig::Metadata;
use crate::{
    soak::crash::world::is_success,
    support::howdah::{Howdah, Options, create_instance, eventually, instance_name},
};

/// The exit code and what was printed on stdout and stderr.
fn run(howdah: &Howdah, words: &[&str]) -> (i32, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = howdah.run(words, "");
    let text = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (status.code().unwrap(), text.concat())
}

#[track_caller]
fn refused(howdah: &Howdah, words: &[&str], code: i32, why: &str) {
    let (exit, text) = run(howdah, words);
    assert_eq!(exit, code, "{text}");
    assert!(text.contains(&format!("reason: {why},")), "{text}");
}

fn json(howdah: &Howdah, words: &[&str]) -> Value {
    let output = howdah.run(words, "");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A durable instance; the uid of its server.
async fn create(howdah: &Howdah, id: &str) -> String {
    let request = create_instance(id, Instance::default());
    let accepted = howdah.instances().await.create_instance(request).await;
    assert!(is_success(&howdah.wait(accepted.unwrap().get_ref()).await));
    let request = GetInstanceRequest {
        name: instance_name(id),
    };
    let found = howdah.instances().await.get_instance(request).await;
    found.unwrap().into_inner().servers[0].uid.clone()
}

/// Forgets an instance behind the back of the program, as old metadata would.
async fn forget(howdah: &Howdah, id: &str) {
    let metadata = Metadata::of(howdah).await;
    let sql = format!("delete from instances where id = '{id}'");
    metadata.execute(&sql).await;
    assert_eq!(metadata.count("servers").await, 0, "gone with the instance");
}

fn findings(howdah: &Howdah) -> Vec<String> {
    let output = howdah.run(&["doctor", "-o", "json"], "");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = told["findings"].as_array().unwrap().iter();
    let ours = found.filter(|finding| finding["check"] == "servers on record");
    let text = |finding: &Value| format!("{} {}", finding["status"], finding["message"]);
    ours.map(text).collect()
}

fn marked(home: &Path) -> bool {
    home.join("data/PG_VERSION").exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_record_is_reported_thrown_and_restored() {
    let howdah = Howdah::serve(Options::external().await).await;
    let uid = create(&howdah, "orders").await;
    let home = howdah.data_dir().join("local/servers").join(&uid);
    refused(&howdah, &["trash", "throw", &uid], 5, "SERVER_ON_RECORD");
    assert_eq!(howdah.servers().len(), 1);
    assert!(findings(&howdah)[0].starts_with("\"ok\""));

    forget(&howdah, "orders").await;
    let found = findings(&howdah);
    let expected = format!("\"warn\" \"no record knows the server {uid}, and it runs\"");
    assert_eq!(found, [expected]);
    assert_eq!(howdah.servers().len(), 1, "it is left alone");
    let thrown = json(&howdah, &["trash", "throw", &uid, "-o", "json"]);
    assert_eq!(thrown["uid"], uid.as_str());
    assert_eq!((howdah.servers().len(), marked(&home)), (0, false));
    refused(
        &howdah,
        &["trash", "throw", &uid],
        3,
        "SERVER_DATA_NOT_FOUND",
    );

    let unknown = "6f1c8b86-6f56-4b0c-a1a4-2f2d3a3f0a19";
    let words = ["trash", "restore", unknown];
    refused(&howdah, &words, 3, "SERVER_DATA_NOT_FOUND");
    let locks = howdah.local("locks");
    let left = |uid: &str| locks.iter().any(|lock| lock == uid);
    assert!(!left(unknown) && !left(&uid), "{locks:?}");

    let listed = json(&howdah, &["trash", "list", "-o", "json"]);
    let entry = &listed["entries"][0];
    assert_eq!(entry["uid"], uid.as_str());
    assert!(entry["bytes"].as_u64().unwrap() > 1 << 20, "{entry}");
    let time = |key: &str| {
        let text = entry[key].as_str().unwrap();
        chrono::DateTime::parse_from_rfc3339(text).unwrap()
    };
    let kept = time("deleteTime") - time("throwTime");
    assert_eq!(kept, chrono::TimeDelta::days(7));

    // Nothing is put over what is there, and nothing is lost then.
    fs::create_dir(&home).unwrap();
    refused(
        &howdah,
        &["trash", "restore", &uid],
        4,
        "SERVER_DATA_EXISTS",
    );
    fs::remove_dir(&home).unwrap();
    let restored = json(&howdah, &["trash", "restore", &uid, "-o", "json"]);
    assert_eq!(restored["uid"], uid.as_str());
    assert_eq!(restored["place"], home.to_str().unwrap());
    assert!(marked(&home));
    refused(
        &howdah,
        &["trash", "restore", &uid],
        3,
        "SERVER_DATA_NOT_FOUND",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trash_is_emptied_by_server_and_whole() {
    let howdah = Howdah::serve(Options::external().await).await;
    let trash = howdah.data_dir().join("local/trash");
    let uid = |digit: char| format!("6f1c8b86-6f56-4b0c-a1a4-2f2d3a3f0a1{digit}");
    let now = chrono::Utc::now().timestamp();
    for digit in ['1', '2', '3'] {
        fs::create_dir_all(trash.join(format!("{}.{now}/data", uid(digit)))).unwrap();
    }
    fs::create_dir(trash.join("notes")).unwrap();
    let unknown = uid('9');
    let words = ["trash", "empty", &uid('1'), &unknown];
    refused(&howdah, &words, 3, "SERVER_DATA_NOT_FOUND");
    assert_eq!(howdah.local("trash").len(), 4, "nothing is deleted");
    let deleted = json(&howdah, &["trash", "empty", &uid('2'), "-o", "json"]);
    assert_eq!(deleted["entries"][0]["uid"], uid('2'));
    assert_eq!(deleted["entries"][0].get("deleteTime"), None, "{deleted}");
    let (code, text) = run(&howdah, &["trash", "empty", &uid('3')]);
    assert_eq!(code, 0, "{text}");
    let header: Vec<&str> = text.lines().next().unwrap().split("  ").collect();
    assert_eq!(header.first(), Some(&"DELETED"), "{text}");
    assert!(!text.contains("DELETED AT"), "{text}");
    assert_eq!(howdah.local("trash").len(), 2);
    let deleted = json(&howdah, &["trash", "empty", "--all", "-o", "json"]);
    assert_eq!(deleted["entries"].as_array().unwrap().len(), 1);
    assert_eq!(howdah.local("trash"), ["notes"], "what is not ours stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_serves_logs_a_server_without_a_record() {
    let mut howdah = Howdah::serve(Options::external().await).await;
    let uid = create(&howdah, "orders").await;
    forget(&howdah, "orders").await;
    howdah.stop().await;
    howdah.start("").await;
    let message = "no record knows a server on this host";
    eventually("it is logged", async || howdah.log().contains(message)).await;
    let log = howdah.log();
    let line = log.lines().find(|line| line.contains(message)).unwrap();
    assert!(
        line.contains(&uid) && line.contains("\"running\":true"),
        "{line}"
    );
    assert_eq!(howdah.servers().len(), 1, "it is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_metadata_is_asked_whether_it_runs_or_not() {
    let mut howdah = Howdah::serve(Options::default()).await;
    let uid = create(&howdah, "orders").await;
    assert!(findings(&howdah)[0].starts_with("\"ok\""));
    refused(&howdah, &["trash", "throw", &uid], 5, "SERVER_ON_RECORD");
    howdah.stop().await;
    refused(&howdah, &["trash", "throw", &uid], 5, "SERVER_ON_RECORD");
    let found = findings(&howdah);
    assert!(
        found.len() == 1 && found[0].starts_with("\"skip\""),
        "{found:?}"
    );
}

/// Files and links in the trash are not restored as servers.
#[tokio::test(flavor = "multi_thread")]
async fn only_directories_of_servers_are_restored() {
    let howdah = Howdah::serve(Options::default()).await;
    let trash = howdah.data_dir().join("local/trash");
    let uid = |digit: char| uuid::Uuid::parse_str(&digit.to_string().repeat(32)).unwrap();
    let precious = howdah.directory().join("precious");
    fs::create_dir_all(precious.join("data")).unwrap();
    let entry = |digit: char| trash.join(format!("{}.1700000000", uid(digit)));
    std::os::unix::fs::symlink(&precious, entry('1')).unwrap();
    fs::write(entry('2'), "").unwrap();
    fs::create_dir(entry('3')).unwrap();
    std::os::unix::fs::symlink(precious.join("data"), entry('3').join("data")).unwrap();
    for digit in ['1', '2', '3'] {
        refused(
            &howdah,
            &["trash", "restore", &uid(digit).to_string()],
            5,
            "DATA_DIR_DAMAGED",
        );
    }
    assert_eq!(howdah.local("servers"), Vec::<String>::new());
    assert!(precious.join("data").is_dir());
}
