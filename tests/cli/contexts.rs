//! Which server is called.

use std::{fs, path::Path};

use super::program::{Run, command};

/// Somebody with a home.
struct User(tempfile::TempDir);

impl User {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn home(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, words: &[&str], variables: &[(&str, &str)]) -> Run {
        let mut command = command(self.home(), words);
        command.env("HOWDAH_DATA_DIR", self.home().join("data"));
        command.envs(variables.iter().copied());
        command.output().unwrap().into()
    }

    /// What is said of a server that nobody serves at.
    #[track_caller]
    fn calls(&self, words: &[&str], variables: &[(&str, &str)], endpoint: &str) -> String {
        let words: Vec<&str> = ["instances", "list"].iter().chain(words).copied().collect();
        let run = self.run(&words, variables);
        assert_eq!(run.code, 6, "{run:?}");
        assert!(run.stderr.contains(endpoint), "{endpoint}: {run:?}");
        run.stderr
    }

    #[track_caller]
    fn does(&self, words: &[&str]) -> String {
        let run = self.run(words, &[]);
        assert_eq!(
            (run.code, run.stderr.as_str()),
            (0, ""),
            "{words:?}: {run:?}"
        );
        run.stdout
    }
}

#[test]
fn the_endpoint_comes_from_the_nearest_place_that_names_one() {
    let user = User::new();
    let said = user.calls(&[], &[], "127.0.0.1:7717");
    assert!(!said.contains("the endpoint is that of"), "{said}");

    fs::create_dir(user.home().join("data")).unwrap();
    let file = user.home().join("data/endpoint");
    fs::write(&file, "unix:/nowhere/file\n").unwrap();
    let said = user.calls(&[], &[], "unix:/nowhere/file");
    assert!(said.contains(&file.display().to_string()), "{said}");

    user.does(&["context", "add", "prod", "--endpoint", "unix:/nowhere/prod"]);
    user.calls(&[], &[], "unix:/nowhere/file");
    user.does(&["context", "use", "prod"]);
    let said = user.calls(&[], &[], "unix:/nowhere/prod");
    assert!(
        said.contains("the endpoint is that of the context"),
        "{said}"
    );

    user.does(&["context", "add", "test", "--endpoint", "unix:/nowhere/test"]);
    let test = ("HOWDAH_CONTEXT", "test");
    user.calls(&[], &[test], "unix:/nowhere/test");
    user.calls(&["--context", "prod"], &[test], "unix:/nowhere/prod");
    let variable = ("HOWDAH_ENDPOINT", "unix:/nowhere/variable");
    user.calls(&[], &[variable, test], "unix:/nowhere/variable");
    // What is typed comes before a variable.
    user.calls(&["--context", "prod"], &[variable], "unix:/nowhere/prod");
    let flag = ["--endpoint", "unix:/nowhere/flag"];
    user.calls(&flag, &[variable, test], "unix:/nowhere/flag");
    // An empty variable is as good as none.
    user.calls(&[], &[("HOWDAH_ENDPOINT", "")], "unix:/nowhere/prod");
}

/// A password in an endpoint would be kept in a file, and is of no use.
#[test]
fn an_endpoint_holds_no_login() {
    let user = User::new();
    let endpoint = ["--endpoint", "https://ada:pass-word@db.example:7717"];
    for words in [["context", "add", "prod"], ["instances", "list", "-otable"]] {
        let words: Vec<&str> = words.iter().chain(&endpoint).copied().collect();
        let run = user.run(&words, &[]);
        assert_eq!(run.code, 2, "{run:?}");
        assert!(
            run.stderr
                .contains("the endpoint holds a user or a password")
        );
        assert!(!run.stderr.contains("pass-word"), "{run:?}");
    }
    let file = user.home().join(".config/howdah/contexts.toml");
    assert!(!file.exists());
}

/// A wrong start ends with data where data is asked for.
#[test]
fn names_and_errors_come_in_each_form() {
    let user = User::new();
    let reasons = user.does(&["explain", "-o", "name"]);
    assert!(reasons.lines().any(|line| line == "INSTANCE_NOT_FOUND"));
    let settings = user.does(&["config", "check", "-o", "name"]);
    assert!(settings.lines().any(|line| line == "tls.certificate"));
    let lost = user.run(&["context", "use", "nosuch", "-o", "yaml"], &[]);
    assert!(lost.stderr.starts_with("error:\n"), "{lost:?}");
    assert!(lost.stderr.contains("exitCode: 3\n"), "{lost:?}");
}

#[test]
fn contexts_are_kept_listed_and_removed() {
    let user = User::new();
    let add = [
        "context",
        "add",
        "prod",
        "--endpoint",
        "db.example:7717",
        "--project",
        "shop",
    ];
    user.does(&add);
    user.does(&add);
    let other = user.run(
        &["context", "add", "prod", "--endpoint", "unix:/other"],
        &[],
    );
    assert_eq!(other.code, 4, "{other:?}");
    user.does(&["context", "use", "prod"]);
    let list = user.does(&["context", "list"]);
    let row: Vec<&str> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["prod", "yes", "db.example:7717", "shop"]);
    let json = user.run(&["context", "list", "-o", "json"], &[]).json();
    assert_eq!(json[0]["current"], true);
    assert_eq!(user.does(&["context", "list", "-o", "name"]), "prod\n");

    for (words, code) in [
        (&["context", "use", "nosuch"][..], 3),
        (&["context", "remove", "nosuch"], 3),
        (&["context", "add", "a/b", "--endpoint", "unix:/x"], 2),
        (&["context", "add", "bare"], 2),
        (
            &["context", "add", "portless", "--endpoint", "db.example"],
            2,
        ),
        (
            &[
                "context",
                "add",
                "tls",
                "--endpoint",
                "a:1",
                "--ca",
                "/nowhere.pem",
            ],
            2,
        ),
        (&["context", "list", "--endpoint", "unix:/x"], 2),
        (&["instances", "list", "--context", "nosuch"], 3),
    ] {
        let run = user.run(words, &[]);
        assert_eq!(run.code, code, "{words:?}: {run:?}");
    }
    user.does(&["context", "remove", "prod"]);
    user.calls(&[], &[], "127.0.0.1:7717");

    let file = user.home().join(".config/howdah/contexts.toml");
    fs::write(&file, "current = 1\n").unwrap();
    let damaged = user.run(&["context", "list"], &[]);
    assert_eq!(damaged.code, 2, "{damaged:?}");
    assert!(damaged.stderr.contains("contexts.toml"), "{damaged:?}");
}

/// Each command reads the file and writes it whole: none may undo what another one does.
#[test]
fn contexts_are_added_side_by_side() {
    let user = User::new();
    let names: Vec<String> = (0..12).map(|number| format!("c{number:02}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| user.does(&["context", "add", name, "--endpoint", "unix:/x"]));
        }
    });
    let listed = user.does(&["context", "list", "-o", "name"]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), names);
}
