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
pub(super) struct User {
    endpoint: String,
}

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl User {
    pub(super) fn of(howdah: &Howdah) -> Self {
        Self {
            endpoint: howdah.endpoint(),
        }
    }

    pub(super) fn at(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
        }
    }

    /// `howdah` with these words; nothing of this process's settings.
    pub(super) fn command(&self, words: &str) -> Command {
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

    pub(super) async fn run(&self, words: &str) -> Ended {
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
    pub(super) fn says(&self, words: &'static str) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            let ended = self.run(words).await;
            let quiet = ended.code == Some(0) && ended.stderr.is_empty();
            assert!(quiet, "{caller}: {words}: {ended:?}");
            ended.stdout
        }
    }

    pub(super) async fn json(&self, words: &str) -> Value {
        let ended = self.run(&format!("{words} --output json")).await;
        assert_eq!(ended.code, Some(0), "{words}: {ended:?}");
        serde_json::from_str(&ended.stdout).unwrap()
    }

    /// Follows `public.items`, once that is under way.
    async fn follow(&self, options: &str) -> Follower {
        let words = "streams subscribe orders/shop --tables public.items";
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
         reason: INSTANCE_NOT_FOUND, see `howdah explain INSTANCE_NOT_FOUND`\n"
    );
    assert_eq!(lost.stdout, "");
}

#[tokio::test]
async fn a_database_is_reached_in_every_form() {
    let howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    let user = User::of(&howdah);
    let ask = "select current_user, current_database()";
    let there = "shop_user|shop\n";

    let mut own = user.command("psql orders/shop -- -X -A -t -c");
    let ended = own
        .arg(ask)
        .env("PGSERVICE", "elsewhere")
        .output()
        .await
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), there, "{ended:?}");
    let missing = user
        .command("psql orders/shop")
        .env("PATH", "/nowhere")
        .output();
    let missing = missing.await.unwrap();
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    let said = String::from_utf8_lossy(&missing.stderr);
    assert!(said.contains("apt-get install postgresql-client"), "{said}");

    let connection = user.json("connection orders/shop").await;
    let text = |name: &str| connection[name].as_str().unwrap().to_owned();
    assert_eq!(text("sslmode"), "disable");
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        path
    };
    let pgpass = write(
        "pgpass",
        user.says("connection orders/shop --format pgpass").await,
    );
    let service = write(
        "service",
        user.says("connection orders/shop --format service").await,
    );
    let variables = async |format: &str| {
        let words = format!("connection orders/shop --format {format}");
        user.run(&words).await.stdout
    };
    let env = write("env", variables("env").await);
    let dotenv = write("dotenv", variables("dotenv").await);
    let (host, port) = (text("host"), connection["port"].to_string());
    let sourced =
        |path: &std::path::Path| format!("set -a; . {}; psql -X -A -t -c '{ask}'", path.display());
    let scripts = [
        format!(
            "PGPASSFILE={} psql -X -A -t -h {host} -p {port} -U shop_user -d shop -c '{ask}'",
            pgpass.display()
        ),
        format!(
            "PGSERVICEFILE={} PGSERVICE=orders_shop psql -X -A -t -c '{ask}'",
            service.display()
        ),
        sourced(&env),
        sourced(&dotenv),
    ];
    for script in scripts {
        let ended = Command::new("sh")
            .args(["-c", &script])
            .output()
            .await
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&ended.stdout),
            there,
            "{script}: {ended:?}"
        );
    }
    let jdbc = user.says("connection orders/shop --format jdbc").await;
    let begin = format!("jdbc:postgresql://{host}:{port}/shop?user=shop_user&password=");
    assert!(
        jdbc.starts_with(&begin) && jdbc.ends_with("&sslmode=disable\n"),
        "{jdbc}"
    );
}

#[tokio::test]
async fn resources_are_waited_for_and_listed_in_every_form() {
    let howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    let user = User::of(&howdah);

    // A creation would be refused: no such version is installed.
    let again = user
        .run("instances create orders --version 99 --if-not-exists --wait")
        .await;
    assert_eq!(
        (again.code, again.stderr.as_str()),
        (Some(0), "it exists already\n")
    );
    assert_eq!(field(&again.stdout, "state"), "READY");
    let again = user
        .run("databases create orders/shop --if-not-exists")
        .await;
    assert_eq!(again.code, Some(0), "{again:?}");
    let refused = user.run("databases create orders/shop").await;
    assert_eq!(refused.code, Some(4), "{refused:?}");

    let alone = user
        .run("streams subscribe orders --tables public.items")
        .await;
    assert_eq!(alone.code, Some(2), "{alone:?}");
    assert_eq!(user.says("instances list -o name").await, "orders\n");
    assert_eq!(
        user.says("databases list orders -o name").await,
        "orders/shop\n"
    );
    let yaml = user.says("instances list -o yaml").await;
    assert!(yaml.contains("state: READY\n"), "{yaml}");
    let wide = user.says("instances list -o wide").await;
    assert!(wide.lines().next().unwrap().contains(" UID "), "{wide}");
    let table = user.says("instances list").await;
    let age = table
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .last()
        .unwrap();
    assert!(age.ends_with(['s', 'm']), "{table}");

    assert_eq!(user.says("instances get orders -o name").await, "orders\n");
    let nobody = user.run("instances get nope --watch").await;
    assert_eq!(nobody.code, Some(3), "{nobody:?}");
    let other = user.run("instances wait orders --for stopped").await;
    assert_eq!(other.code, Some(5), "{other:?}");
    // A server that takes no connections is not ready, and shown where instances are listed.
    let metadata = super::rig::Metadata::of(&howdah).await;
    let is = async |status: &str| {
        let sql = format!(
            "update instances set conditions = jsonb_set(conditions, '{{0,status}}', '\"{status}\"')"
        );
        metadata.execute(&sql).await;
    };
    is("UNKNOWN").await;
    let late = user.run("instances wait orders --timeout 1s").await;
    assert_eq!(late.code, Some(9), "{late:?}");
    let said = "orders is READY, but cannot be used yet";
    assert!(late.stderr.contains(said), "{late:?}");
    let listed = user.says("instances list").await;
    assert!(listed.contains(" READY,SERVER_RUNNING "), "{listed}");
    is("TRUE").await;
    let ready = user
        .says("instances wait orders --for ready --timeout 30s")
        .await;
    assert_eq!(field(&ready, "state"), "READY");
    let mut watch = user.command("instances list --watch").spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut line = async || {
        timeout(LIMIT, lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    };
    assert!(line().await.starts_with("NAME "));
    assert!(line().await.contains(" READY "));
    user.says("instances stop orders --wait").await;
    // The states on the way may pass between two looks.
    while !line().await.contains(" STOPPED ") {}
    let stuck = user.run("instances wait orders").await;
    assert_eq!(stuck.code, Some(5), "{stuck:?}");
    let stopped = user.says("instances wait orders --for stopped").await;
    assert_eq!(field(&stopped, "state"), "STOPPED");

    let cut = user.run("operations list --limit 2").await;
    assert_eq!(cut.stdout.lines().count(), 3, "{cut:?}");
    assert!(cut.stderr.contains("--all lists all"), "{cut:?}");
    assert_eq!(user.says("operations list --open -o name").await, "\n");
    let ended = user.says("operations list --all -o name").await;
    let id = ended.lines().next().unwrap().to_owned();
    let cancelled = user.run(&format!("operations cancel {id}")).await;
    assert_eq!(
        cancelled.stderr,
        "nothing was cancelled: the operation had ended, it succeeded\n"
    );
    for words in ["instances list", "operations list"] {
        let nowhere = user.run(&format!("{words} --project nosuch")).await;
        assert_eq!(nowhere.code, Some(3), "{nowhere:?}");
        assert!(nowhere.stderr.contains("PROJECT_NOT_FOUND"), "{nowhere:?}");
    }
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
    let (first, hint) = said.split_once('\n').unwrap();
    assert_eq!(first, "error: the connection to the server was lost");
    assert!(hint.contains("is `howdah serve` running there?"), "{said}");
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
