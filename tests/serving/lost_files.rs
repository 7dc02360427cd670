//! Files of the data directory that are lost or damaged beside embedded metadata: each
//! is put right, or named and nothing is written.

use std::{collections::BTreeMap, fs, os::unix::process::ExitStatusExt, path::Path};

use crate::support::howdah::{Howdah, Options};

/// The files of a data directory, with their contents.
fn contents(data_dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read(entry.path()).unwrap_or_default())
        })
        .collect()
}

/// A stopped Howdah whose metadata holds an instance.
async fn stopped() -> Howdah {
    let mut howdah = Howdah::serve(Options::default()).await;
    howdah.instance("orders").await;
    howdah.stop().await;
    howdah
}

/// A start is refused with that reason, names the file, and writes nothing.
fn refuses(howdah: &Howdah, reason: &str, file: &str) {
    let before = contents(&howdah.data_dir());
    // What is of servers alone is no matter of `migrate`.
    let commands: &[&str] = match file.starts_with("local/") {
        true => &["serve"],
        false => &["serve", "migrate"],
    };
    for command in commands {
        let output = howdah.run(&[*command], "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{said}");
        // `serve` writes JSON here, where its log is JSON.
        let written = [
            format!("reason: {reason},"),
            format!("\"reason\":\"{reason}\""),
        ];
        assert!(written.iter().any(|it| said.contains(it)), "{said}");
        let path = howdah.data_dir().join(file);
        assert!(said.contains(path.to_str().unwrap()), "{said}");
        let after = contents(&howdah.data_dir());
        assert!(after == before, "{command}: {:?}", after.keys());
    }
}

/// It serves what it served before.
async fn serves(howdah: &mut Howdah) {
    howdah.start("").await;
    let request = howdah::pb::v1::GetInstanceRequest {
        name: crate::support::howdah::instance_name("orders"),
    };
    let found = howdah.instances().await.get_instance(request).await;
    found.unwrap();
    howdah.stop().await;
}

/// The servers go to the metadata that is there now.
fn adopt_root(howdah: &Howdah) {
    let adopted = howdah.run(&["metadata", "adopt-root"], "");
    assert!(adopted.status.success(), "{adopted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_damaged_secret_key_is_named() {
    let mut howdah = stopped().await;
    let path = howdah.data_dir().join("secret.key");
    let key = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    refuses(&howdah, "SECRET_KEY_INVALID", "secret.key");
    for damaged in [&b""[..], &key[..20], b"\xff\xfe\x00"] {
        fs::write(&path, damaged).unwrap();
        refuses(&howdah, "SECRET_KEY_INVALID", "secret.key");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refuses(&howdah, "DATA_DIR_DAMAGED", "secret.key");
    fs::remove_dir(&path).unwrap();
    fs::write(&path, &key).unwrap();
    serves(&mut howdah).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_password_of_the_metadata_server_is_made_anew() {
    let mut howdah = stopped().await;
    let path = howdah.data_dir().join("metadata.password");
    let password = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    serves(&mut howdah).await;
    let mut last = fs::read_to_string(&path).unwrap();
    assert_ne!(last, password);
    assert!(
        howdah
            .log()
            .contains("the password of the metadata server was lost")
    );
    for damaged in ["", &password[..20], "not one of ours, though of any length"] {
        fs::write(&path, damaged).unwrap();
        serves(&mut howdah).await;
        let made = fs::read_to_string(&path).unwrap();
        assert_ne!(made, last);
        last = made;
    }
    assert!(!howdah.log().contains(&last));

    // Killed when the server has the new one, and the file has not.
    fs::remove_file(&path).unwrap();
    let killed = howdah.run(&["migrate"], "embedded.password.after_replace=return");
    assert_eq!(killed.status.signal(), Some(9));
    assert!(!path.exists());
    serves(&mut howdah).await;

    // While the server runs, left by a process that was killed.
    howdah.start("").await;
    howdah.kill().await;
    fs::remove_file(&path).unwrap();
    serves(&mut howdah).await;

    // Whole, and of another server: whose file it is cannot be told.
    fs::write(&path, &password).unwrap();
    let output = howdah.run(&["migrate"], "");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("DATA_DIR_DAMAGED"), "{said}");
    assert!(said.contains(&format!("{}: put", path.display())), "{said}");
    assert_eq!(fs::read_to_string(&path).unwrap(), password);
    fs::remove_file(&path).unwrap();
    serves(&mut howdah).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_made_anew_is() {
    let mut howdah = stopped().await;
    let worker = howdah.data_dir().join("worker-id");
    let marker = howdah.data_dir().join("metadata.engine");
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let (was, engine) = (text(&worker), text(&marker));
    for damaged in ["", &was[..10], "{"] {
        fs::write(&worker, damaged).unwrap();
        fs::write(&marker, damaged).unwrap();
        serves(&mut howdah).await;
        assert!(uuid::Uuid::try_parse(&text(&worker)).is_ok());
        assert_ne!(text(&worker), was);
        assert_eq!(text(&marker), engine);
    }
    let log = howdah.log();
    let warned = log.matches("the file is damaged, it is made anew").count();
    assert_eq!(warned, 3, "{log}");
    for name in ["worker-id", "metadata.engine", "metadata.lock", "lock"] {
        fs::remove_file(howdah.data_dir().join(name)).unwrap();
    }
    serves(&mut howdah).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_place_of_a_file_is_named() {
    let mut howdah = stopped().await;
    for name in ["metadata.engine", "metadata.lock", "local/host-id"] {
        let path = howdah.data_dir().join(name);
        let kept = howdah.directory().join("kept");
        fs::rename(&path, &kept).unwrap();
        fs::create_dir(&path).unwrap();
        refuses(&howdah, "DATA_DIR_DAMAGED", name);
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        refuses(&howdah, "DATA_DIR_DAMAGED", name);
        fs::remove_file(&path).unwrap();
        fs::rename(&kept, &path).unwrap();
        serves(&mut howdah).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_host_id_is_named() {
    let mut howdah = stopped().await;
    let path = howdah.data_dir().join("local/host-id");
    let id = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    refuses(&howdah, "DATA_DIR_DAMAGED", "local/host-id");
    fs::write(&path, id).unwrap();
    serves(&mut howdah).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_removed_still_holds() {
    let howdah = Howdah::serve(Options::default()).await;
    fs::remove_file(howdah.data_dir().join("lock")).unwrap();
    for command in ["serve", "migrate"] {
        let output = howdah.run(&[command], "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("DATA_DIR_IN_USE"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_metadata_is_named_and_not_begun_anew() {
    let mut howdah = stopped().await;
    let (home, aside) = (
        howdah.data_dir().join("metadata"),
        howdah.data_dir().join("metadata.old"),
    );
    fs::rename(&home, &aside).unwrap();
    refuses(&howdah, "DATA_DIR_DAMAGED", "metadata.engine");
    // Without its key too, the metadata is what is named.
    let key = howdah.data_dir().join("secret.key");
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    refuses(&howdah, "DATA_DIR_DAMAGED", "metadata.engine");
    fs::write(&key, kept).unwrap();

    fs::remove_file(howdah.data_dir().join("metadata.engine")).unwrap();
    assert!(!howdah.run(&["serve"], "").status.success());
    adopt_root(&howdah);
    howdah.start("").await;
    howdah.stop().await;
    assert!(
        aside.join("data/PG_VERSION").exists(),
        "copies beside it are kept"
    );
    fs::remove_dir_all(&home).unwrap();
    fs::rename(&aside, &home).unwrap();
    adopt_root(&howdah);
    serves(&mut howdah).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_makes_the_key_before_the_metadata() {
    let mut howdah = Howdah::new(Options::default());
    assert!(howdah.run(&["migrate"], "").status.success());
    howdah.start("").await;
    howdah.instance("orders").await;
}
