//! `howdah metadata backup`, of real embedded metadata.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use howdah::pg::{self, Host, Login, Target, Tls};
use secrecy::SecretString;

use crate::support::{
    howdah::{Howdah, Options, eventually, signal},
    postgres::{LIMIT, installation},
};

/// Runs `howdah metadata` with these words.
pub(super) fn metadata(howdah: &Howdah, words: &[&str]) -> Output {
    howdah.run(&[&["metadata"], words].concat(), "")
}

/// It did what it was told; what it said on stderr.
pub(super) fn done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// It ended with that reason; what it said on stderr.
pub(super) fn refused(output: &Output, reason: &str) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(&format!("reason: {reason},")), "{said}");
    said
}

/// A file for a backup beside the data directory.
pub(super) fn place(howdah: &Howdah, name: &str) -> String {
    howdah.directory().join(name).to_str().unwrap().to_owned()
}

fn socket_directory(howdah: &Howdah) -> PathBuf {
    let entries = fs::read_dir(howdah.directory().join("run")).unwrap();
    let mut places = entries.map(|entry| entry.unwrap().path().join("metadata"));
    places.find(|place| place.exists()).unwrap()
}

/// A session on a database of the embedded server, which runs.
pub(super) async fn session(howdah: &Howdah, database: &str) -> pg::Client {
    let password = fs::read_to_string(howdah.data_dir().join("metadata.password")).unwrap();
    let target = Target {
        host: Host::Unix(socket_directory(howdah)),
        port: 5432,
        tls: Tls::Disable,
    };
    let login = Login {
        user: "howdah_admin".into(),
        password: Some(SecretString::from(password)),
        database: database.into(),
    };
    Box::pin(pg::client::connect(&target, &login, LIMIT))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_taken_with_and_without_a_process_that_serves() {
    let mut howdah = Howdah::serve(Options::default()).await;
    let file = place(&howdah, "serving.backup");
    let said = done(&metadata(&howdah, &["backup", &file]));
    let key = howdah.data_dir().join("secret.key");
    assert!(
        said.contains(&format!("keep {} too", key.display())),
        "{said}"
    );
    assert!(!said.contains("warning"), "{said}");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(fs::read(&file).unwrap().starts_with(b"PGDMP"));
    assert!(!Path::new(&format!("{file}.new")).exists());
    for secret in ["secret.key", "metadata.password"] {
        let secret = fs::read_to_string(howdah.data_dir().join(secret)).unwrap();
        let backup = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        assert!(!backup.contains(&secret) && !said.contains(&secret));
    }

    refused(&metadata(&howdah, &["backup", &file]), "BACKUP_EXISTS");
    done(&metadata(&howdah, &["backup", &file, "--force"]));
    let piped = metadata(&howdah, &["backup", "-"]);
    done(&piped);
    assert!(piped.stdout.starts_with(b"PGDMP"));
    // It still serves, from the same server.
    howdah.instance("orders").await;

    howdah.stop().await;
    let stopped = place(&howdah, "stopped.backup");
    fs::remove_file(&key).unwrap();
    let said = done(&metadata(&howdah, &["backup", &stopped]));
    assert!(said.contains("warning"), "{said}");
    let pid_file = howdah.data_dir().join("metadata/data/postmaster.pid");
    assert!(!pid_file.exists(), "the server was stopped again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_needs_metadata_of_our_own() {
    let empty = Howdah::new(Options::default());
    let file = place(&empty, "none.backup");
    refused(&metadata(&empty, &["backup", &file]), "METADATA_NOT_FOUND");
    assert!(!empty.data_dir().exists());
    assert!(!Path::new(&file).exists() && !Path::new(&format!("{file}.new")).exists());

    let external = Howdah::new(Options::external().await);
    let file = place(&external, "external.backup");
    for words in [
        ["backup", &file],
        ["restore", &file],
        ["restore", "--former"],
    ] {
        let said = refused(&metadata(&external, &words), "CONFIG_INVALID");
        assert!(said.contains("HOWDAH_DATABASE_URL"), "{said}");
    }
    assert!(!external.data_dir().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_interrupted_leaves_nothing() {
    let howdah = Howdah::serve(Options::default()).await;
    let (holder, session) = (
        session(&howdah, "howdah").await,
        session(&howdah, "postgres").await,
    );
    let lock = "begin; lock table instances in access exclusive mode";
    holder.batch_execute(lock).await.unwrap();
    let file = place(&howdah, "interrupted.backup");
    let mut command = howdah.command("metadata", "");
    let said = fs::File::create(howdah.directory().join("said")).unwrap();
    command
        .args(["backup", &file])
        .stderr(said)
        .stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    eventually("pg_dump waits", async || {
        let sql = "select count(*) from pg_stat_activity
                    where application_name = 'pg_dump' and wait_event_type = 'Lock'";
        session.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    assert!(Path::new(&format!("{file}.new")).exists());
    signal(child.id(), "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let said = fs::read_to_string(howdah.directory().join("said")).unwrap();
    assert!(said.contains("OPERATION_CANCELLED"), "{said}");
    assert!(!Path::new(&format!("{file}.new")).exists());
    // Its backend looks for its client when it has the lock.
    drop(holder);
    eventually("pg_dump is gone", async || {
        let sql = "select count(*) from pg_stat_activity where application_name = 'pg_dump'";
        session.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_nobody_reads_is_no_backup() {
    let howdah = Howdah::serve(Options::default()).await;
    let mut command = howdah.command("metadata", "");
    command
        .args(["backup", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let said = refused(&output, "BACKUP_UNWRITABLE");
    assert!(said.contains("nobody reads"), "{said}");
}

/// The newer PostgreSQL of the tests has no client programs: neither it nor an older
/// `pg_dump` can do.
#[tokio::test(flavor = "multi_thread")]
async fn a_pg_dump_that_is_missing_is_named() {
    let newest = installation(18).unwrap();
    let options =
        Options::default().with("HOWDAH_LOCAL_ENGINE_DIRECTORIES", newest.to_str().unwrap());
    let howdah = Howdah::serve(options).await;
    let file = place(&howdah, "b");
    let said = refused(&metadata(&howdah, &["backup", &file]), "TOOL_MISSING");
    assert!(
        said.contains("no pg_dump of PostgreSQL 18 or later"),
        "{said}"
    );
    assert!(said.contains("postgresql-client-18"), "{said}");
    assert!(!Path::new(&file).exists() && !Path::new(&format!("{file}.new")).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_restore_would_take_is_not_written() {
    let howdah = Howdah::serve(Options::default()).await;
    let file = place(&howdah, "b");
    let written = metadata(&howdah, &["backup", &file, "-o", "json"]);
    done(&written);
    let told: serde_json::Value = serde_json::from_slice(&written.stdout).unwrap();
    assert_eq!(told["file"], file.as_str());
    assert_eq!(told["bytes"], fs::metadata(&file).unwrap().len());
    assert_eq!(told["warnings"], serde_json::json!([]));

    // As a start leaves it that ended before the first migration.
    let session = session(&howdah, "howdah").await;
    let sql = "drop schema public cascade; create schema public";
    // In a deadlock with the process itself one of the two is refused.
    eventually("the schema is empty", async || {
        session.batch_execute(sql).await.is_ok()
    })
    .await;
    let early = place(&howdah, "early");
    refused(
        &metadata(&howdah, &["backup", &early]),
        "METADATA_NOT_FOUND",
    );
    assert!(!Path::new(&early).exists());
}
