//! `howdah metadata restore`, into real embedded metadata.

use std::{fs, os::unix::process::ExitStatusExt, path::Path, process::Command};

use howdah::pb::v1::{GetInstanceRequest, Instance};

use super::backup::{done, metadata, place, refused, session};
use crate::support::{
    howdah::{Howdah, Options, SECRET_KEY, instance_name, reason},
    postgres::{PASSWORD, SUPERUSER, installation, server},
};

async fn instance(howdah: &Howdah, id: &str) -> Result<Instance, String> {
    let request = GetInstanceRequest {
        name: instance_name(id),
    };
    let found = howdah.instances().await.get_instance(request).await;
    found
        .map(tonic::Response::into_inner)
        .map_err(|status| reason(&status))
}

async fn databases(howdah: &Howdah) -> Vec<String> {
    let sql = "select datname::text from pg_database where datname like 'howdah%' order by 1";
    let rows = session(howdah, "postgres").await.query(sql, &[]).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

fn connects(uri: &str) {
    let asked = Command::new("psql")
        .args([uri, "-Atc", "select 1"])
        .output();
    let asked = asked.unwrap();
    let answer = String::from_utf8_lossy(&asked.stdout);
    assert_eq!(answer.trim(), "1", "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_is_back_and_what_came_later_is_not() {
    let mut howdah = Howdah::serve(Options::default()).await;
    let orders = howdah.instance("orders").await;
    let connection = howdah.database("orders", "shop").await;
    let file = place(&howdah, "b");
    done(&metadata(&howdah, &["backup", &file]));
    howdah.instance("later").await;
    refused(&metadata(&howdah, &["restore", &file]), "DATA_DIR_IN_USE");
    howdah.stop().await;
    let servers = howdah.servers();
    assert_eq!(servers.len(), 2);

    let said = done(&metadata(&howdah, &["restore", &file]));
    assert!(said.contains("--former"), "{said}");
    howdah.start("").await;
    assert_eq!(instance(&howdah, "orders").await.unwrap().uid, orders.uid);
    assert_eq!(
        instance(&howdah, "later").await.unwrap_err(),
        "INSTANCE_NOT_FOUND"
    );
    assert_eq!(howdah.connection("orders", "shop").await, connection);
    connects(&connection.uri);
    assert_eq!(
        databases(&howdah).await,
        ["howdah", "howdah_before_restore"]
    );
    howdah.database("orders", "again").await;
    assert_eq!(howdah.servers(), servers, "servers are left alone");

    howdah.stop().await;
    done(&metadata(&howdah, &["restore", "--former"]));
    howdah.start("").await;
    assert!(instance(&howdah, "later").await.is_ok());
    howdah.stop().await;
    done(&metadata(&howdah, &["restore", "--former"]));
    howdah.start("").await;
    assert!(instance(&howdah, "later").await.is_err());
    let again = howdah.connection("orders", "again").await;
    connects(&again.uri);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_restored_changes_nothing() {
    let mut howdah = Howdah::serve(Options::default()).await;
    howdah.instance("orders").await;
    let newer = place(&howdah, "newer");
    let session = session(&howdah, "howdah").await;
    let sql = "insert into _sqlx_migrations (version, description, success, checksum,
               execution_time) values (99991231000001, 'later', true, '', 0)";
    session.batch_execute(sql).await.unwrap();
    done(&metadata(&howdah, &["backup", &newer]));
    let sql = "delete from _sqlx_migrations where version = 99991231000001";
    session.batch_execute(sql).await.unwrap();
    drop(session);
    let file = place(&howdah, "b");
    done(&metadata(&howdah, &["backup", &file]));
    howdah.instance("later").await;
    howdah.stop().await;

    let said = refused(
        &metadata(&howdah, &["restore", &newer]),
        "METADATA_SCHEMA_MISMATCH",
    );
    assert!(said.contains("99991231000001"), "{said}");

    let whole = fs::read(&file).unwrap();
    let bad = place(&howdah, "bad");
    let half = whole.len() / 2;
    for length in [0, 4, 5, 40, 2000, half, whole.len() - 1000, whole.len() - 1] {
        fs::write(&bad, &whole[..length]).unwrap();
        refused(&metadata(&howdah, &["restore", &bad]), "BACKUP_INVALID");
    }
    fs::write(&bad, "select 1;").unwrap();
    refused(&metadata(&howdah, &["restore", &bad]), "BACKUP_INVALID");
    fs::write(&bad, foreign().await).unwrap();
    let said = refused(&metadata(&howdah, &["restore", &bad]), "BACKUP_INVALID");
    assert!(said.contains("is no backup of Howdah's metadata"), "{said}");
    let absent = place(&howdah, "absent");
    let done = metadata(&howdah, &["restore", &absent]);
    refused(&done, "BACKUP_NOT_FOUND");
    assert_eq!(done.status.code(), Some(3), "{done:?}");
    refused(
        &metadata(&howdah, &["restore", howdah.directory().to_str().unwrap()]),
        "BACKUP_INVALID",
    );
    refused(
        &metadata(&howdah, &["restore", "--former"]),
        "METADATA_NOT_FOUND",
    );

    let other = ("HOWDAH_SECRET_KEY".to_owned(), SECRET_KEY.to_owned());
    howdah.options.environment.push(other);
    refused(
        &metadata(&howdah, &["restore", &file]),
        "SECRET_KEY_INVALID",
    );
    howdah.options.environment.clear();

    let pid_file = howdah.data_dir().join("metadata/data/postmaster.pid");
    assert!(!pid_file.exists(), "the server was stopped each time");
    howdah.start("").await;
    assert!(instance(&howdah, "orders").await.is_ok());
    assert!(instance(&howdah, "later").await.is_ok());
    assert_eq!(databases(&howdah).await, ["howdah"]);
}

/// An archive of something else.
async fn foreign() -> Vec<u8> {
    let server = server(15);
    let database = server.fresh_database().await;
    let url = format!(
        "postgres://{SUPERUSER}@127.0.0.1:{}/{database}",
        server.port
    );
    let dumped = Command::new(installation(15).unwrap().join("pg_dump"))
        .env("PGPASSWORD", PASSWORD)
        .args(["-Fc", "-d", &url])
        .output()
        .unwrap();
    assert!(dumped.stdout.starts_with(b"PGDMP"), "{dumped:?}");
    dumped.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_the_old_or_the_new() {
    let mut howdah = Howdah::serve(Options::default()).await;
    let file = place(&howdah, "b");
    done(&metadata(&howdah, &["backup", &file]));
    howdah.instance("later").await;
    howdah.stop().await;
    // The second time there is a database from before to be dropped.
    for (point, restored) in [("restore.before_swap", false), ("restore.after_swap", true)] {
        let armed = format!("{point}=return");
        let killed = howdah.run(&["metadata", "restore", &file], &armed);
        assert_eq!(killed.status.signal(), Some(9), "{point}: {killed:?}");
        howdah.start("").await;
        assert_eq!(
            instance(&howdah, "later").await.is_err(),
            restored,
            "{point}"
        );
        howdah.stop().await;
    }
    done(&metadata(&howdah, &["restore", "--former"]));
    howdah.start("").await;
    assert!(instance(&howdah, "later").await.is_ok());
    howdah.stop().await;
    let killed = howdah.run(
        &["metadata", "restore", &file],
        "restore.before_swap=return",
    );
    assert_eq!(killed.status.signal(), Some(9));
    howdah.start("").await;
    assert!(instance(&howdah, "later").await.is_ok());
    assert_eq!(databases(&howdah).await, ["howdah", "howdah_restore"]);
    howdah.stop().await;
    done(&metadata(&howdah, &["restore", &file]));
    howdah.start("").await;
    assert_eq!(
        databases(&howdah).await,
        ["howdah", "howdah_before_restore"]
    );
}

/// A new machine has a newer PostgreSQL: what was taken with 15 goes into 18.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_machine_needs_the_backup_and_the_key() {
    let old = Howdah::serve(Options::default()).await;
    old.instance("orders").await;
    let connection = old.database("orders", "shop").await;
    let file = place(&old, "b");
    done(&metadata(&old, &["backup", &file]));
    let key = fs::read(old.data_dir().join("secret.key")).unwrap();

    let newest = installation(18).unwrap();
    let options =
        Options::default().with("HOWDAH_LOCAL_ENGINE_DIRECTORIES", newest.to_str().unwrap());
    let mut new = Howdah::new(options);
    let said = refused(&metadata(&new, &["restore", &file]), "SECRET_KEY_INVALID");
    let place = new.data_dir().join("secret.key");
    assert!(
        said.contains(&format!("{} is missing", place.display())),
        "{said}"
    );
    assert!(!new.data_dir().exists(), "nothing was written");

    fs::create_dir(new.data_dir()).unwrap();
    fs::write(&place, &key).unwrap();
    let said = done(&metadata(&new, &["restore", &file]));
    assert!(!said.contains("--former"), "{said}");
    new.start("").await;
    let major = fs::read_to_string(new.data_dir().join("metadata/data/PG_VERSION")).unwrap();
    assert_eq!(major.trim(), "18");
    assert!(instance(&new, "orders").await.is_ok());
    assert_eq!(new.connection("orders", "shop").await, connection);
    connects(&connection.uri);
    assert!(
        new.servers().is_empty(),
        "the servers of another host are left alone"
    );
    assert!(Path::new(&file).exists());
}

/// Where the metadata was lost, a restore that fails leaves none that could be served.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_leaves_nothing_to_be_served() {
    let mut howdah = Howdah::serve(Options::default()).await;
    let orders = howdah.instance("orders").await;
    let file = place(&howdah, "b");
    done(&metadata(&howdah, &["backup", &file]));
    howdah.stop().await;
    let lost = howdah.data_dir().join("metadata");
    fs::rename(&lost, howdah.directory().join("lost")).unwrap();
    let whole = fs::read(&file).unwrap();
    let cut = place(&howdah, "cut");
    fs::write(&cut, &whole[..whole.len() - 2000]).unwrap();
    refused(&metadata(&howdah, &["restore", &cut]), "BACKUP_INVALID");

    let before = howdah.log().len();
    howdah.spawn("");
    assert!(!howdah.ended().await.success());
    let log = howdah.log().split_off(before);
    assert!(log.contains("DATA_DIR_DAMAGED"), "{log}");
    assert!(log.contains("howdah metadata restore"), "{log}");

    done(&metadata(&howdah, &["restore", &file]));
    howdah.start("").await;
    assert_eq!(instance(&howdah, "orders").await.unwrap().uid, orders.uid);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_former_metadata_needs_its_key() {
    let mut howdah = Howdah::serve(Options::default()).await;
    howdah.instance("orders").await;
    let file = place(&howdah, "b");
    done(&metadata(&howdah, &["backup", &file]));
    howdah.instance("later").await;
    howdah.stop().await;
    let restored = metadata(&howdah, &["restore", &file, "-o", "json"]);
    done(&restored);
    let restored: serde_json::Value = serde_json::from_slice(&restored.stdout).unwrap();
    assert_eq!(restored["formerKept"], true);
    assert!(restored["takenFrom"].as_str().unwrap().starts_with("15."));

    let key = howdah.data_dir().join("secret.key");
    let known = fs::read(&key).unwrap();
    fs::write(&key, SECRET_KEY).unwrap();
    refused(
        &metadata(&howdah, &["restore", "--former"]),
        "SECRET_KEY_INVALID",
    );
    fs::write(&key, known).unwrap();
    howdah.start("").await;
    assert!(
        instance(&howdah, "later").await.is_err(),
        "nothing was changed"
    );
    howdah.stop().await;
    done(&metadata(&howdah, &["restore", "--former"]));
    howdah.start("").await;
    assert!(instance(&howdah, "later").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_from_before_a_rotation_needs_the_former_key() {
    let mut howdah = Howdah::serve(Options::default()).await;
    howdah.instance("orders").await;
    let connection = howdah.database("orders", "shop").await;
    let file = place(&howdah, "b");
    done(&metadata(&howdah, &["backup", &file]));
    howdah.stop().await;
    let said = done(&metadata(&howdah, &["restore", &file]));
    assert!(!said.contains("former key"), "{said}");
    assert!(said.ends_with("then run `howdah doctor`\n"), "{said}");

    let key = howdah.data_dir().join("secret.key");
    let former = howdah.data_dir().join("secret.key.former");
    fs::rename(&key, &former).unwrap();
    fs::write(&key, SECRET_KEY).unwrap();
    refused(
        &metadata(&howdah, &["restore", &file]),
        "SECRET_KEY_INVALID",
    );
    let former = ("HOWDAH_SECRET_KEY_PREVIOUS_FILE", former.to_str().unwrap());
    howdah
        .options
        .environment
        .push((former.0.into(), former.1.into()));
    let said = done(&metadata(&howdah, &["restore", &file]));
    let needed = "sealed with a former key: the next start needs HOWDAH_SECRET_KEY_PREVIOUS";
    assert!(said.contains(needed), "{said}");
    howdah.start("").await;
    assert_eq!(howdah.connection("orders", "shop").await, connection);
}

#[test]
fn a_restore_does_not_read_standard_input() {
    let howdah = Howdah::new(Options::default());
    let output = metadata(&howdah, &["restore", "-"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("to a file first"), "{said}");
    assert!(!howdah.data_dir().exists());
}
