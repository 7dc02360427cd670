//! `howdah doctor`.

use std::net::TcpListener;

use super::program::{command, run};

#[test]
fn it_tells_what_is_in_the_way() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let home = tempfile::tempdir().unwrap();
    let data_dir = home.path().join("data");
    let flags = [
        "--data-dir",
        data_dir.to_str().unwrap(),
        "--admin-listen=127.0.0.1:0",
    ];
    let words = [&["doctor", "-o", "json", "--listen", &address], &flags[..]].concat();
    let found = run(&words);
    assert_eq!(found.code, 1, "{found:?}");
    let json = found.json();
    let findings = json["findings"].as_array().unwrap();
    let finding = |check: &str| {
        let wanted = findings.iter().find(|finding| finding["check"] == check);
        wanted.unwrap_or_else(|| panic!("{check} in {findings:#?}"))
    };
    assert_eq!(finding("listen address")["status"], "fail");
    assert!(
        finding("listen address")["remedy"]
            .as_str()
            .unwrap()
            .contains("--listen")
    );
    assert_eq!(finding("admin address")["status"], "ok");
    assert_eq!(finding("data directory")["status"], "ok");
    assert_eq!(finding("settings")["status"], "ok");
    for check in ["clock", "disk", "ports", "locale"] {
        finding(check);
    }
    // What could not be checked is listed too.
    for check in ["metadata database", "secret keys"] {
        assert_eq!(finding(check)["status"], "skip");
        let remedy = finding(check)["remedy"].as_str().unwrap();
        assert!(remedy.contains("`howdah serve`"), "{remedy}");
    }
    assert_eq!(finding("servers on record")["status"], "ok");
    // It looks and makes nothing.
    assert!(!data_dir.exists());
}

#[test]
fn wrong_settings_are_findings() {
    let home = tempfile::tempdir().unwrap();
    let output = command(home.path(), &["doctor", "--local-ports=1-2"]).output();
    let run = super::program::Run::from(output.unwrap());
    assert_eq!(run.code, 1);
    assert!(
        run.stdout.starts_with("FAIL  settings  local.ports: "),
        "{run:?}"
    );
}
