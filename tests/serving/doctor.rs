//! `howdah doctor` on a data directory that is used, or was.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::Value;

use crate::support::howdah::{Howdah, Options};

/// What is below `local`, and whether it is a directory.
const LOCAL: [(&str, bool); 6] = [
    ("servers", true),
    ("trash", true),
    ("templates", true),
    ("parameters", true),
    ("locks", true),
    ("host-id", false),
];

/// Status and message of the findings of one check.
fn findings(howdah: &Howdah, check: &str) -> Vec<(String, String)> {
    let output = howdah.run(&["doctor", "-o", "json"], "");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = found["findings"].as_array().unwrap().iter();
    let of_check = found.filter(|finding| finding["check"] == check);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    of_check
        .map(|finding| (text(&finding["status"]), text(&finding["message"])))
        .collect()
}

fn one(howdah: &Howdah, check: &str) -> (String, String) {
    let mut found = findings(howdah, check);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_process_that_serves_nothing_is_in_the_way() {
    let mut howdah = Howdah::serve(Options::default()).await;
    howdah.instance("orders").await;
    let (api, admin) = (howdah.endpoint(), howdah.admin_endpoint());
    let flags = ["--listen", &api, "--admin-listen", &admin];
    let words = [&["doctor", "-o", "json"], &flags[..]].concat();
    let beside = howdah.run(&words, "");
    let said = String::from_utf8_lossy(&beside.stdout);
    assert!(beside.status.success(), "{said}");
    let held = "is held by the process that serves from this data directory";
    for address in [&api, &admin] {
        assert!(said.contains(&format!("{address} {held}")), "{said}");
    }
    assert!(!said.contains("\"skip\""), "{said}");
    // Of another data directory it is in the way.
    let other = Howdah::new(Options::default());
    assert_eq!(other.run(&words, "").status.code(), Some(1));
    howdah.stop().await;

    for check in ["metadata database", "secret keys", "servers on record"] {
        let (status, message) = one(&howdah, check);
        assert_eq!(status, "skip", "{check}");
        assert!(
            message.contains("metadata server does not run"),
            "{message}"
        );
    }
    let text = howdah.run(&["doctor"], "");
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("\nskip  servers on record  "), "{text}");
    assert!(
        text.contains("-> start `howdah serve`, and run this again"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sees_what_a_start_would_refuse() {
    let mut howdah = Howdah::serve(Options::default()).await;
    howdah.instance("orders").await;
    let (status, message) = one(&howdah, "secret keys");
    assert_eq!(status, "ok");
    assert!(
        message.starts_with("1 secrets are sealed with"),
        "{message}"
    );
    assert_eq!(one(&howdah, "data files").0, "ok");
    howdah.stop().await;
    assert_eq!(one(&howdah, "data files").0, "ok");

    let key = howdah.data_dir().join("secret.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let (status, message) = one(&howdah, "data files");
    assert_eq!(status, "warn");
    assert!(message.contains("mode 0640"), "{message}");
    let log = howdah.log().len();
    howdah.start("").await;
    assert!(
        howdah.log()[log..].contains("chmod 0600"),
        "a start says it too"
    );
    howdah.stop().await;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    let lost = howdah.directory().join("lost");
    fs::rename(&key, &lost).unwrap();
    let (status, message) = one(&howdah, "data files");
    assert_eq!(status, "fail");
    assert!(message.contains("secret.key is missing"), "{message}");
    fs::rename(&lost, &key).unwrap();

    for name in ["worker-id", "metadata.lock", "metadata.engine", "endpoint"] {
        let place = howdah.data_dir().join(name);
        let _ = fs::rename(&place, &lost);
        fs::create_dir(&place).unwrap();
        let found = findings(&howdah, "data files");
        let named = found
            .iter()
            .any(|(status, message)| status == "fail" && message.contains(place.to_str().unwrap()));
        assert!(named, "{name}: {found:?}");
        fs::remove_dir(&place).unwrap();
        let _ = fs::rename(&lost, &place);
    }
    for (name, is_directory) in LOCAL {
        let place = howdah.data_dir().join("local").join(name);
        fs::rename(&place, &lost).unwrap();
        match is_directory {
            true => fs::write(&place, "").unwrap(),
            false => fs::create_dir(&place).unwrap(),
        }
        let found = one(&howdah, "data files");
        assert_eq!(found.0, "fail", "{name}");
        assert!(found.1.contains(place.to_str().unwrap()), "{found:?}");
        let remove = if is_directory {
            fs::remove_file
        } else {
            fs::remove_dir
        };
        remove(&place).unwrap();
        std::os::unix::fs::symlink(&lost, &place).unwrap();
        assert_eq!(one(&howdah, "data files").0, "fail", "a link as {name}");
        fs::remove_file(&place).unwrap();
        fs::rename(&lost, &place).unwrap();
    }
    fs::rename(howdah.data_dir().join("metadata"), &lost).unwrap();
    let (status, message) = one(&howdah, "data files");
    assert_eq!(status, "fail");
    assert!(message.contains("howdah metadata restore"), "{message}");
    fs::rename(&lost, howdah.data_dir().join("metadata")).unwrap();
    howdah.start("").await;
}
