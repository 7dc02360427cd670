//! The command line as its user types it, against the real program.

use std::process::Stdio;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
    time::timeout,
};

use super::rig::{PATIENCE, psql};
use crate::support::howdah::{Howdah, LIMIT, Options, eventually};

/// Whether a process has a handler for SIGINT: bit 1 of `SigCgt` (proc(5)).
fn catches_interrupts(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    u64::from_str_radix(caught.unwrap().trim(), 16).unwrap() & 0b10 != 0
}

/// Somebody at a terminal.
struct User {
    endpoint: String,
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl User {
    fn of(howdah: &Howdah) -> Self {
        Self {
            endpoint: howdah.endpoint(),
        }
    }

    /// `howdah` with these words; nothing of this process's settings.
    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_howdah"));
        command
            .args(words.split_whitespace())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOWDAH_ENDPOINT", &self.endpoint)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, words: &str) -> Ended {
        let run = self.command(words).output();
        let output = timeout(PATIENCE, run).await.unwrap().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// What a command prints that does its work without a word beside.
    #[track_caller]
    fn says(&self, words: &'static str) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            let ended = self.run(words).await;
            let quiet = ended.code == Some(0) && ended.stderr.is_empty();
            assert!(quiet, "{caller}: {words}: {ended:?}");
            ended.stdout
        }
    }

    async fn json(&self, words: &str) -> Value {
        let ended = self.run(&format!("{words} --output json")).await;
        assert_eq!(ended.code, Some(0), "{words}: {ended:?}");
        serde_json::from_str(&ended.stdout).unwrap()
    }

    /// Follows `public.items`, once that is under way.
    async fn follow(&self, options: &str) -> Follower {
        let words = "streams subscribe orders shop --tables public.items";
        let mut child = self.command(&format!("{words} {options}")).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let read = timeout(LIMIT, stderr.read_line(&mut line)).await;
        read.unwrap().unwrap();
        assert!(line.starts_with("subscribed: "), "{line}");
        Follower {
            stdout: BufReader::new(child.stdout.take().unwrap()).lines(),
            stderr,
            child,
        }
    }
}

/// `streams subscribe` that runs.
struct Follower {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: BufReader<ChildStderr>,
}

impl Follower {
    async fn line(&mut self) -> String {
        let line = timeout(LIMIT, self.stdout.next_line()).await;
        line.unwrap().unwrap().expect("another line")
    }

    /// How it ended, and what else it said.
    async fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        let read = timeout(LIMIT, self.stderr.read_to_string(&mut rest)).await;
        read.unwrap().unwrap();
        let status = timeout(LIMIT, self.child.wait()).await.unwrap().unwrap();
        (status.code(), rest)
    }
}

fn sql(uri: &str, statements: &str) {
    let output = psql(&[uri, "-c", statements]);
    assert!(output.status.success(), "{output:?}");
}

/// The value of a field that a sheet shows.
fn field<'a>(sheet: &'a str, name: &str) -> &'a str {
    let found = sheet.lines().find_map(|line| line.strip_prefix(name));
    let value = found.unwrap_or_else(|| panic!("no {name}: {sheet}"));
    value.trim_start_matches([' ', ':']).trim_end()
}

#[tokio::test]
async fn a_first_tour() {
    let howdah = Howdah::serve(Options::external().await).await;
    let user = User::of(&howdah);
    let made = user
        .says("instances create orders --version 15 --ephemeral --wait")
        .await;
    assert_eq!(field(&made, "name"), "orders");
    assert_eq!(field(&made, "state"), "READY");
    let list = user.says("instances list").await;
    let [header, row] = list.lines().collect::<Vec<_>>()[..] else {
        panic!("{list}");
    };
    assert!(header.starts_with("NAME"), "{list}");
    assert!(
        row.starts_with("orders ") && row.contains(" READY "),
        "{list}"
    );

    let made = user.says("databases create orders/shop --wait").await;
    assert_eq!(field(&made, "owner"), "shop_user");
    for (words, stdout) in [
        ("databases delete orders/shop --validate-only", ""),
        ("instances stop orders --validate-only", "name"),
    ] {
        let checked = user.run(words).await;
        assert_eq!(checked.code, Some(0), "{checked:?}");
        assert_eq!(checked.stderr, "valid; nothing was changed\n");
        assert!(checked.stdout.starts_with(stdout), "{checked:?}");
        assert!(!checked.stdout.contains("done"), "{checked:?}");
    }
    let uri = user.says("connection orders/shop").await;
    let connection = user.json("connection orders/shop").await;
    assert_eq!(connection["uri"], uri.trim_end());
    let uri = uri.trim_end();
    sql(uri, "create table items (id int primary key, name text)");

    let mut follower = user.follow("--count 2").await;
    sql(
        uri,
        "insert into items values (1, 'howdah'); delete from items",
    );
    assert_eq!(follower.line().await, "schema public.items (id, name)");
    assert_eq!(
        follower.line().await,
        "insert public.items id=1 name=howdah"
    );
    assert_eq!(follower.line().await, "delete public.items id=1");
    assert_eq!(follower.end().await, (Some(0), String::new()));

    let stopped = user.says("instances stop orders --wait").await;
    assert_eq!(field(&stopped, "state"), "STOPPED");
    let refused = user
        .run("streams subscribe orders shop --tables public.items")
        .await;
    assert_eq!(refused.code, Some(5), "{refused:?}");
    let started = user.says("instances start orders --wait").await;
    assert_eq!(field(&started, "state"), "READY");

    let operations = user.json("operations list").await;
    assert_eq!(operations["operations"].as_array().unwrap().len(), 4);
    let listed = user.says("operations list").await;
    let done = listed.lines().filter(|line| line.contains(" DONE "));
    assert_eq!(done.count(), 4, "{listed}");

    let gone = user
        .says("instances delete orders --force --purge --wait")
        .await;
    assert_eq!(gone, "done\n");
    let lost = user.run("instances get orders").await;
    assert_eq!(lost.code, Some(3), "{lost:?}");
    assert_eq!(
        lost.stderr,
        "error: the instance does not exist\n       \
         resource: projects/default/instances/orders\n\
         reason: INSTANCE_NOT_FOUND, see docs/errors/INSTANCE_NOT_FOUND.md\n"
    );
    assert_eq!(lost.stdout, "");
}

#[tokio::test]
async fn over_a_unix_socket_and_through_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}/api", directory.path().display());
    let options = Options::external().await.with("HOWDAH_LISTEN", &listen);
    let mut howdah = Howdah::new(options);
    howdah.start("database.create.role.after_sql=return").await;
    let user = User::of(&howdah);
    assert_eq!(user.endpoint, listen);
    user.says("instances create orders --ephemeral --wait")
        .await;

    let mut waits = user.command("databases create orders/shop --wait");
    let waits = tokio::spawn(async move { waits.output().await.unwrap() });
    howdah.ended().await;
    howdah.start("").await;
    let waited = timeout(PATIENCE, waits).await.unwrap().unwrap();
    assert!(waited.status.success(), "{waited:?}");
    let sheet = String::from_utf8(waited.stdout).unwrap();
    assert_eq!(field(&sheet, "state"), "READY");

    let uri = user.says("connection orders/shop").await;
    sql(uri.trim_end(), "create table items (id int primary key)");
    let follower = user.follow("").await;
    howdah.kill().await;
    let (code, said) = follower.end().await;
    assert_eq!(code, Some(6), "{said}");
    assert_eq!(said, "error: the connection to the server was lost\n");
    let away = user.run("instances list").await;
    assert_eq!(away.code, Some(6), "{away:?}");
}

#[tokio::test]
async fn what_a_slot_waits_for_is_told_first() {
    let howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    let shop = howdah.database("orders", "shop").await;
    super::rig::run_sql(&shop, "create table items (id int primary key)");
    let writer = super::rig::superuser(&howdah, "orders", "shop").await;
    let open = "begin; insert into items values (1)";
    writer.batch_execute(open).await.unwrap();

    let user = User::of(&howdah);
    let words = "streams subscribe orders shop --tables public.items --count 1";
    let mut child = user.command(words).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = timeout(LIMIT, said.next_line()).await.unwrap().unwrap();
    let first = first.unwrap();
    assert!(
        first.starts_with("waiting for 1 transaction to end: "),
        "{first}"
    );
    assert!(first.contains(" in shop, since "), "{first}");
    writer.batch_execute("commit").await.unwrap();
    let second = timeout(LIMIT, said.next_line()).await.unwrap().unwrap();
    assert!(second.unwrap().starts_with("subscribed: "));
    super::rig::run_sql(&shop, "insert into items values (2)");
    assert!(
        timeout(LIMIT, child.wait())
            .await
            .unwrap()
            .unwrap()
            .success()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_wait_says_how_to_go_on() {
    let howdah = Howdah::serve(Options::default()).await;
    let user = User::of(&howdah);
    let mut child = user
        .command("instances create orders --wait")
        .spawn()
        .unwrap();
    let listed = async {
        loop {
            let list = user.run("operations list -o json").await;
            let list: Value = serde_json::from_str(&list.stdout).unwrap();
            if let Some(name) = list["operations"][0]["name"].as_str() {
                return name.to_owned();
            }
        }
    };
    let name = timeout(LIMIT, listed).await.unwrap();
    // It waits after the answer that the list has seen, and catches the signal then.
    let pid = child.id().unwrap();
    eventually("it waits", async || catches_interrupts(pid)).await;
    crate::support::howdah::signal(pid, "INT");
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut said).await.unwrap();
    let status = timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("goes on"), "{said}");
    let id = name.rsplit('/').next().unwrap();
    let wait = user.run(&format!("operations wait {id}")).await;
    assert!(
        said.contains(&format!("`howdah operations wait {id}`")),
        "{said}"
    );
    assert_eq!(wait.code, Some(0), "{wait:?}");
}
