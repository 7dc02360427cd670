//! Help, usage errors, exit codes, `config` and `completion`.

use std::{
    fs,
    io::Read,
    net::TcpListener,
    process::{Command, Stdio},
};

use super::program::{command, run};

/// Every command that can be typed, without its arguments.
const COMMANDS: &[&str] = &[
    "",
    "serve",
    "migrate",
    "metadata",
    "metadata backup",
    "metadata restore",
    "metadata adopt-root",
    "orphans",
    "orphans list",
    "orphans drop",
    "trash",
    "trash list",
    "trash empty",
    "trash restore",
    "trash throw",
    "doctor",
    "config",
    "config check",
    "config schema",
    "completion",
    "explain",
    "dev",
    "status",
    "context",
    "context list",
    "context use",
    "context add",
    "context remove",
    "instances logs",
    "instances",
    "instances create",
    "instances get",
    "instances list",
    "instances delete",
    "instances undelete",
    "instances start",
    "instances stop",
    "instances restart",
    "instances engines",
    "instances wait",
    "databases",
    "databases create",
    "databases get",
    "databases list",
    "databases delete",
    "databases wait",
    "connection",
    "psql",
    "operations",
    "operations list",
    "operations get",
    "operations wait",
    "operations cancel",
    "operations delete",
    "streams",
    "streams subscribe",
];

#[test]
fn every_command_has_help() {
    for words in COMMANDS {
        let mut words: Vec<&str> = words.split_whitespace().collect();
        words.push("--help");
        let run = run(&words);
        assert_eq!(run.code, 0, "{words:?}");
        assert!(run.stdout.contains("Usage: howdah"), "{words:?}");
        assert!(run.stdout.contains("--endpoint"), "{words:?}");
    }
}

/// Of the settings of `serve`, these show those that lead to the data.
#[test]
fn the_help_of_a_command_fits_on_a_screen_or_two() {
    for words in COMMANDS {
        let short = words.split_whitespace().chain(["-h"]);
        let short = run(&short.collect::<Vec<_>>()).stdout;
        assert!(short.lines().count() <= 60, "{words}:\n{short}");
    }
    for words in [
        "migrate",
        "doctor",
        "metadata backup",
        "metadata restore",
        "metadata adopt-root",
        "orphans list",
        "orphans drop",
        "trash list",
        "trash empty",
        "trash restore",
        "trash throw",
    ] {
        let long = words.split_whitespace().chain(["--help"]);
        let long = run(&long.collect::<Vec<_>>()).stdout;
        assert!(long.lines().count() <= 90, "{words}:\n{long}");
        assert!(long.contains("--data-dir") && !long.contains("--operations-lease"));
        assert!(long.contains("docs/configuration.md"), "{long}");
    }
    let all = run(&["serve", "--help"]).stdout;
    assert!(all.contains("--operations-lease"), "{all}");
    // Hidden, and taken.
    let taken = run(&["trash", "list", "--operations-lease", "no-duration"]);
    assert!(
        taken.stderr.contains("operations.lease"),
        "{}",
        taken.stderr
    );
}

#[test]
fn an_emptied_trash_has_to_be_asked_for_by_name_or_as_a_whole() {
    let refused = run(&["trash", "empty"]);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("trash empty [OPTIONS] --all"),
        "{}",
        refused.stderr
    );
}

#[test]
fn the_help_and_the_document_tell_the_same_exit_codes() {
    let help = run(&["--help"]).stdout;
    let document = include_str!("../../docs/command-line.md");
    let codes = help.split("Exit codes:\n").nth(1).unwrap();
    let mut count = 0;
    for line in codes.lines() {
        let (code, meaning) = line.trim().split_once("  ").unwrap();
        assert!(
            document.contains(&format!("| {code} | {meaning}")),
            "{line}"
        );
        count += 1;
    }
    assert_eq!(count, 12);
}

#[test]
fn the_document_names_every_command() {
    let document = include_str!("../../docs/command-line.md");
    for words in COMMANDS.iter().filter(|words| !words.is_empty()) {
        assert!(document.contains(&format!("howdah {words}")), "{words}");
    }
}

#[test]
fn usage_errors_end_with_2() {
    let cases: &[&[&str]] = &[
        &[],
        &["instance-s"],
        &["instances", "create"],
        &["instances", "create", "a", "--parameter", "no-value"],
        &["instances", "create", "a", "--timeout", "10m"],
        &["instances", "create", "a", "--wait", "--timeout", "10"],
        &["streams", "subscribe", "orders", "shop"],
        &["instances", "wait", "orders", "--for", "joy"],
        &["operations", "list", "--all", "--limit", "3"],
        &[
            "streams",
            "subscribe",
            "o",
            "s",
            "--tables",
            "a",
            "--publication",
            "p",
        ],
        &["serve", "--no-such-setting", "1"],
        &["serve", "--listen", "nowhere"],
        &["serve", "--secret-key", "x"],
        &["migrate", "--config", "/nowhere.toml"],
        &["metadata", "backup"],
        &["metadata", "restore"],
        &["metadata", "restore", "b", "--former"],
        &["trash", "empty"],
        &["trash", "restore", "orders"],
        &["instances", "list", "--endpoint", "ftp://h:1"],
        &["instances", "list", "--ca", "/nowhere.pem"],
        &["--output", "xml", "doctor"],
        &["serve", "--cert", "/nowhere.pem"],
        &["doctor", "--endpoint", "127.0.0.1:1"],
        &["--project", "p", "metadata", "backup", "b"],
        &["config", "check", "--key", "/nowhere.pem"],
        &["instances", "list", "--endpoint", "localhost"],
        &["connection", "a/b", "--format", "odbc"],
    ];
    for words in cases {
        let run = run(words);
        assert_eq!(run.code, 2, "{words:?}: {run:?}");
        assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "{run:?}");
    }
}

#[test]
fn a_wrong_setting_is_told_with_reason_and_page() {
    let wrong = run(&["serve", "--listen", "0.0.0.0:7717"]);
    assert_eq!(wrong.code, 2);
    assert!(
        wrong.stderr.starts_with("error: listen: "),
        "{}",
        wrong.stderr
    );
    assert!(wrong.stderr.contains("flag --listen"));
    assert!(
        wrong
            .stderr
            .contains("CONFIG_INVALID, see `howdah explain CONFIG_INVALID`")
    );

    let json = run(&["serve", "--listen", "0.0.0.0:7717", "--output", "json"]);
    let told: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!(told["error"]["reason"], "CONFIG_INVALID");
    assert_eq!(told["error"]["exitCode"], 2);
}

#[test]
fn every_reason_can_be_explained() {
    let page = include_str!("../../docs/errors/RESOURCE_BUSY.md");
    for words in ["RESOURCE_BUSY", "resource-busy"] {
        let explained = run(&["explain", words]);
        assert_eq!((explained.code, explained.stdout.as_str()), (0, page));
    }
    let json = run(&["explain", "RESOURCE_BUSY", "-o", "json"]).json();
    assert_eq!(json["code"], "ABORTED");
    assert_eq!(json["page"], page);
    let all = run(&["explain"]);
    let row = |line: &&str| line.starts_with("RESOURCE_BUSY ") && line.ends_with(" ABORTED");
    assert!(all.stdout.lines().any(|line| row(&line)), "{all:?}");
    let unknown = run(&["explain", "BUSY"]);
    assert_eq!(unknown.code, 3, "{unknown:?}");
    assert!(
        unknown.stderr.contains("similar: RESOURCE_BUSY"),
        "{unknown:?}"
    );
    for (typed, meant) in [
        ("RESOURCE_BUSSY", "RESOURCE_BUSY"),
        ("server_ened", "SERVER_ENDED"),
    ] {
        let near = run(&["explain", typed]);
        let proposal = format!("similar: {meant}");
        assert!(near.stderr.contains(&proposal), "{near:?}");
    }
    let nothing = run(&["explain", "xyzzy"]);
    assert!(!nothing.stderr.contains("similar"), "{nothing:?}");
    let condition = run(&["explain", "SERVER_ENDED"]);
    let said = "`Available` is `FALSE`: its process has ended by itself";
    assert!(condition.stdout.contains(said), "{condition:?}");
}

#[test]
fn what_has_no_effect_is_refused_with_what_has() {
    let refused = run(&["serve", "--cert", "/nowhere.pem"]);
    assert!(
        refused.stderr.contains("--cert has no effect"),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("--tls-certificate"), "{refused:?}");
    let port = run(&["instances", "list", "--endpoint", "localhost"]);
    assert!(port.stderr.contains("such as localhost:7717"), "{port:?}");
    // By the environment they are set for whatever is called later.
    let home = tempfile::tempdir().unwrap();
    let checked = command(home.path(), &["config", "check"])
        .env("HOWDAH_CERT", "/nowhere.pem")
        .env("HOWDAH_PROJECT", "p")
        .output();
    assert_eq!(super::program::Run::from(checked.unwrap()).code, 0);
}

#[test]
fn empty_variables_count_as_none() {
    let home = tempfile::tempdir().unwrap();
    let mut command = command(home.path(), &["instances", "list"]);
    for name in ["ENDPOINT", "PROJECT", "CA", "CERT", "KEY"] {
        command.env(format!("HOWDAH_{name}"), "");
    }
    let run = super::program::Run::from(command.output().unwrap());
    // A server may or may not run at the default endpoint; no other one is called.
    let default = run.code == 0 || run.stderr.contains("cannot reach 127.0.0.1:7717: ");
    assert!(default, "{run:?}");
}

#[test]
fn a_server_that_is_away_ends_with_6() {
    let away = run(&["instances", "list", "--endpoint", "127.0.0.1:1"]);
    assert_eq!(away.code, 6, "{away:?}");
    assert!(
        away.stderr.contains("cannot reach 127.0.0.1:1: "),
        "{away:?}"
    );
    assert_eq!(
        run(&["connection", "a/b", "--endpoint", "unix:/nowhere"]).code,
        6
    );
}

#[test]
fn config_check_shows_values_and_sources_without_secrets() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("howdah.toml");
    fs::write(&file, "[operations]\nworkers = 3\n").unwrap();
    let words = ["config", "check", "--listen=127.0.0.1:9", "-o", "json"];
    let output = command(home.path(), &words)
        .env("HOWDAH_CONFIG", &file)
        .env(
            "HOWDAH_SECRET_KEY",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        )
        .env("HOWDAH_DATABASE_URL", "postgres://me:s3cr3t@h/d")
        .output();
    let run = super::program::Run::from(output.unwrap());
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        !run.stdout.contains("s3cr3t") && !run.stdout.contains("AAEC"),
        "{run:?}"
    );
    let settings = run.json();
    let setting = |key: &str| {
        (
            settings[key]["value"].clone(),
            settings[key]["source"].clone(),
        )
    };
    let flag = ("127.0.0.1:9".into(), "flag --listen".into());
    assert_eq!(setting("listen"), flag);
    let workers = (3.into(), format!("file {}", file.display()).into());
    assert_eq!(setting("operations.workers"), workers);
    let url = (
        "[redacted]".into(),
        "environment variable HOWDAH_DATABASE_URL".into(),
    );
    assert_eq!(setting("database_url"), url);
    assert_eq!(
        setting("operations.lease"),
        ("15s".into(), "default".into())
    );
}

#[test]
fn config_schema_is_a_json_schema() {
    let schema = run(&["config", "schema"]).json();
    assert!(
        schema["$schema"]
            .as_str()
            .unwrap()
            .contains("json-schema.org")
    );
    assert_eq!(schema["additionalProperties"], false);
    let lease = &schema["properties"]["operations"]["properties"]["lease"];
    assert_eq!(lease["default"], "15s");
}

#[test]
fn completion_is_there_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = run(&["completion", shell]);
        assert_eq!(run.code, 0, "{shell}");
        assert!(run.stdout.contains("_HOWDAH_COMPLETE"), "{shell}");
    }
}

#[test]
fn bash_takes_its_completion() {
    let script = r#"PATH="$(dirname "$1"):$PATH"
        source <(howdah completion bash) && complete -p howdah &&
        COMP_WORDS=(howdah inst) COMP_CWORD=1 COMP_TYPE=9 &&
        _clap_complete_howdah howdah inst howdah &&
        printf '%s\n' "${COMPREPLY[@]}""#;
    let output = Command::new("bash")
        .args(["--norc", "-c", script, "bash", env!("CARGO_BIN_EXE_howdah")])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{said}"
    );
    assert!(said.starts_with("complete "), "{said}");
    assert!(said.contains("\ninstance"), "{said}");
}

#[test]
fn an_interrupt_ends_with_130() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let home = tempfile::tempdir().unwrap();
    let words = ["operations", "list", "--endpoint", &endpoint];
    let mut child = command(home.path(), &words).spawn().unwrap();
    // It has begun when HTTP/2 has: this server never answers.
    let (mut peer, _) = listener.accept().unwrap();
    let mut preface = [0; 24];
    peer.read_exact(&mut preface).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let program = env!("CARGO_BIN_EXE_howdah");
    for words in ["config schema", "completion bash", "config check"] {
        // The reader ends before a line comes, whichever runs first.
        let script = format!("( {program} {words}; echo $? >&2 ) | true");
        let ended = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .output();
        let ended = super::program::Run::from(ended.unwrap());
        assert_eq!(ended.stderr, "0\n", "{words}");
    }
}
