//! `howdah dev`: there while it runs, and gone with it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    howdah::{Howdah, LIMIT, Options, eventually, processes, signal, watchdog},
    scratch,
};

/// A directory for temporary files; what runs in it ends with the test.
struct Place {
    directory: TempDir,
    watchdog: Child,
}

impl Place {
    fn new() -> Self {
        let directory = scratch::directory("dev-");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        Self {
            watchdog: watchdog(directory.path()),
            directory,
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn dev(&self) -> Dev {
        let mut child = Command::new(env!("CARGO_BIN_EXE_howdah"))
            .args(["dev", "--parameter", "work_mem=7MB", "-o", "json"])
            .env("TMPDIR", self.path())
            // A setting of `serve` that would lead it to somebody's data.
            .env("HOWDAH_DATA_DIR", "/nowhere")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        while !text.ends_with("}\n") {
            if stdout.read_line(&mut text).unwrap() == 0 {
                let mut said = String::new();
                let mut stderr = child.stderr.take().unwrap();
                stderr.read_to_string(&mut said).unwrap();
                panic!("it has ended: {text}{said}");
            }
        }
        Dev {
            child,
            said: serde_json::from_str(&text).unwrap(),
        }
    }

    /// The directories of processes.
    fn directories(&self) -> usize {
        let bases = fs::read_dir(self.path()).unwrap().flatten();
        let entries = bases.flat_map(|base| fs::read_dir(base.path()).unwrap().flatten());
        entries.filter(|entry| entry.path().is_dir()).count()
    }

    fn servers(&self) -> usize {
        let found = processes(self.path()).into_iter();
        found
            .filter(|(_, line)| line.contains("/postgres "))
            .count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// A command that runs, and what it has said.
struct Dev {
    child: Child,
    said: Value,
}

impl Dev {
    fn uri(&self) -> &str {
        self.said["uri"].as_str().unwrap()
    }

    async fn end_by(mut self, name: &str) -> ExitStatus {
        signal(self.child.id(), name);
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a query answers through the URI.
async fn answer(uri: &str, sql: &str) -> String {
    let connected = tokio_postgres::connect(uri, tokio_postgres::NoTls);
    let (client, connection) = tokio::time::timeout(LIMIT, connected)
        .await
        .unwrap()
        .unwrap();
    let connection = tokio::spawn(connection);
    let row = client.query_one(sql, &[]).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    row.get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_is_gone_when_it_is_told_to_end() {
    for name in ["INT", "TERM", "HUP"] {
        let place = Place::new();
        let dev = place.dev();
        assert_eq!(answer(dev.uri(), "show work_mem").await, "7MB");
        let psql = dev.said["psql"].as_str().unwrap();
        assert!(
            psql.starts_with("howdah psql dev/dev --endpoint 127.0.0.1:"),
            "{psql}"
        );
        assert_eq!((place.directories(), place.servers()), (1, 2));
        assert!(dev.end_by(name).await.success(), "{name}");
        assert_eq!((place.directories(), place.servers()), (0, 0), "{name}");
    }
}

/// What cannot be made is refused before anything is started, and a start is announced.
#[test]
fn it_is_checked_before_it_starts() {
    let place = Place::new();
    let dev = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_howdah"));
        command.arg("dev").args(words).env("TMPDIR", place.path());
        command.output().unwrap()
    };
    for (words, why) in [
        (&["No Name"][..], "NAME_MALFORMED"),
        (&["--version", "new"], "VERSION_MALFORMED"),
    ] {
        let ended = dev(words);
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(said.contains(why) && !said.contains("starting"), "{said}");
        assert!(ended.stdout.is_empty());
    }
    let ended = dev(&["--version", "99"]);
    let said = String::from_utf8(ended.stderr).unwrap();
    let first = "starting PostgreSQL for dev/dev; Ctrl-C ends it and deletes its data\n";
    assert!(said.starts_with(first), "{said}");
    assert!(!ended.status.success());
    assert_eq!((place.directories(), place.servers()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_one_left_is_swept_by_the_next() {
    let place = Place::new();
    let running = place.dev();
    let killed = place.dev();
    killed.end_by("KILL").await;
    assert_eq!((place.directories(), place.servers()), (2, 4));
    let next = place.dev();
    // The one that runs is left alone.
    assert_eq!((place.directories(), place.servers()), (2, 4));
    assert_eq!(answer(running.uri(), "select 'well'").await, "well");

    next.end_by("KILL").await;
    let tmpdir = place.path().to_str().unwrap();
    let options = Options::external().await.with("TMPDIR", tmpdir);
    let howdah = Howdah::serve(options).await;
    eventually("`serve` sweeps too", async || {
        (place.directories(), place.servers()) == (1, 2)
    })
    .await;
    assert_eq!(answer(running.uri(), "select 'well'").await, "well");
    drop(howdah);
}
