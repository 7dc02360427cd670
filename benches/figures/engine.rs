//! The engine by itself, with the simulated provider: operations whose steps do nothing,
//! and what operations that wait for something outside cost the others.

use std::{
    fs,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use howdah::{
    pb::v1::{Instance, StopInstanceRequest},
    pg::{self, Host, Tls},
    store::sealing::Keyring,
};
use secrecy::SecretSlice;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    ROUNDS,
    calls::{cpu_seconds, family_cpu_seconds, postmaster},
    support::{
        howdah::{
            Howdah, Options, SECRET_KEY, create_database, create_instance, eventually,
            instance_name,
        },
        postgres::{PASSWORD, SUPERUSER, Server, server},
    },
    table::{Table, median},
};

/// Operations of a round.
const OPERATIONS: usize = 1000;
const CALLERS: usize = 4;

/// Operations that wait, and creates that are measured beside them in a round.
const WAITING: usize = 200;
const CREATES: usize = 15;

pub async fn measure(table: &mut Table) {
    let world = world();
    rate(table, &world).await;
    waiting(table, &world).await;
}

/// A simulated world whose servers are the shared server.
fn world() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let target = server(15).tcp(Tls::Disable);
    let Host::Tcp(host) = &target.host else {
        panic!("not over TCP: {target:?}");
    };
    let world = json!({ "postgresql": {
        "host": host, "port": target.port, "user": SUPERUSER, "password": PASSWORD,
        "version": "15.0",
    }});
    fs::write(directory.path().join("world.json"), world.to_string()).unwrap();
    directory
}

async fn serve(world: &TempDir) -> (Howdah, pg::Client) {
    let options = Options::external().await;
    let options = options
        .with("HOWDAH_SIMULATED_WORLD", world.path().to_str().unwrap())
        .with("HOWDAH_LOG_FILTER", "warn")
        .with("HOWDAH_OPERATIONS_WORKERS", "4")
        .with("HOWDAH_LOCAL_PORTS", "5000-6999");
    let url = options.database_url.clone().unwrap();
    let howdah = Howdah::serve(options).await;
    let client = server(15).client(url.rsplit('/').next().unwrap()).await;
    (howdah, client)
}

async fn rate(table: &mut Table, world: &TempDir) {
    let (howdah, client) = serve(world).await;
    client.batch_execute(&instances()).await.unwrap();
    let database = server(15).fresh_database().await;
    let (mut rates, mut cpu, mut both) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        accept(&howdah, &client).await;
        let (before, postgres) = (cpu_seconds(howdah.pid()), family_cpu_seconds(postmaster()));
        let seconds = drain(&client).await;
        let ours = cpu_seconds(howdah.pid()) - before;
        let postgres = family_cpu_seconds(postmaster()) - postgres;
        let commits = commits(server(15), &database);
        // The first round warms the caches up.
        if round > 0 {
            let microseconds = 1e6 / OPERATIONS as f64;
            rates.push((OPERATIONS as f64 / seconds, commits));
            cpu.push(ours * microseconds);
            both.push((ours + postgres) * microseconds);
        }
    }
    let build = "simulated provider, profile `quick` with failpoints";
    let how = format!(
        "StopInstance with nothing to stop, 1 000 accepted before, 4 workers / single-row \
         commits of pgbench, 4 clients, same server; {build}"
    );
    table.compare("operations through the engine", &rates, "1/s", "", &how);
    table.alone("CPU per operation", &cpu, "us", "", build);
    table.alone("CPU per operation with PostgreSQL", &both, "us", "", build);
}

/// Instances that are READY by the record, whose servers are nowhere: stopping one is
/// finding that out. They are not meant to run, so that nothing supervises them.
fn instances() -> String {
    let key = STANDARD.decode(SECRET_KEY).unwrap();
    let keyring = Keyring::new(&[SecretSlice::from(key)]).unwrap();
    let mut sql = String::new();
    for number in 1..=OPERATIONS {
        let (instance, server) = (Uuid::new_v4(), Uuid::new_v4());
        let password = keyring.seal(&PASSWORD.into(), &format!("server {server} admin"));
        let password: String = password
            .unwrap()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        sql += &format!(
            "insert into instances (uid, project, id, display_name, labels, annotations, state,
                wanted_version, parameters, ephemeral, deletion_protection)
             values ('{instance}', 'default', 'i{number}', '', '{{}}', '{{}}', 'READY', '15',
                '{{}}', false, false);
             insert into servers (uid, instance_uid, number, role, provider, version, host, port,
                started, wanted, admin_password)
             select '{server}', '{instance}', 1, 'ACTIVE', 'simulated', '15.0', id, 20000 + {number}, true,
                'STOPPED', '\\x{password}' from hosts;"
        );
    }
    sql
}

/// Has a round's operations accepted, none of which is due yet.
async fn accept(howdah: &Howdah, client: &pg::Client) {
    let reset = "update instances set state = 'READY';
        alter table operations alter run_time set default now() + interval '1 hour'";
    client.batch_execute(reset).await.unwrap();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let mut instances = howdah.instances().await;
        callers.spawn(async move {
            for number in (1..=OPERATIONS).skip(caller).step_by(CALLERS) {
                let name = instance_name(&format!("i{number}"));
                let request = StopInstanceRequest {
                    name,
                    ..Default::default()
                };
                instances.stop_instance(request).await.unwrap();
            }
        });
    }
    callers.join_all().await;
}

/// Lets the operations begin, and answers after how many seconds all have ended.
async fn drain(client: &pg::Client) -> f64 {
    let begin = Instant::now();
    let due = "update operations set run_time = now() where end_time is null;
        select pg_notify('howdah_operations', id::text) from operations limit 1";
    client.batch_execute(due).await.unwrap();
    let open = "select count(*) from operations where end_time is null";
    while client.query_one(open, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let failed = "select count(*) from operations where state <> 'SUCCEEDED'";
    assert_eq!(
        client
            .query_one(failed, &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        0
    );
    seconds
}

/// Commits of one row each, a second.
fn commits(server: &Server, database: &str) -> f64 {
    let script = tempfile::NamedTempFile::new().unwrap();
    let sql = "drop table if exists commits; create table commits (n int)";
    let url = format!(
        "postgres://{SUPERUSER}:{PASSWORD}@127.0.0.1:{}/{database}",
        server.port
    );
    let made = std::process::Command::new("psql")
        .args([&url, "-qc", sql])
        .env("PGOPTIONS", "-c client_min_messages=warning")
        .status();
    assert!(made.unwrap().success());
    fs::write(script.path(), "insert into commits values (1);\n").unwrap();
    let output = std::process::Command::new(server.bin.join("pgbench"))
        .args([
            "-n", "-c", "4", "-j", "2", "-T", "3", "-M", "prepared", "-f",
        ])
        .arg(script.path())
        .arg(&url)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "));
    line.unwrap().split(' ').next().unwrap().parse().unwrap()
}

async fn waiting(table: &mut Table, world: &TempDir) {
    let (howdah, client) = serve(world).await;
    howdah.instance("orders").await;
    for number in 0..WAITING {
        let instance = Instance {
            parameters: [("simulated.looks".to_owned(), "1000000".to_owned())].into(),
            ..Instance::default()
        };
        let create = create_instance(&format!("waits-{number}"), instance);
        howdah
            .instances()
            .await
            .create_instance(create)
            .await
            .unwrap();
    }
    let all =
        "select count(*) from operations where waiting_since is not null and end_time is null";
    eventually("all wait", async || {
        client.query_one(all, &[]).await.unwrap().get::<_, i64>(0) == WAITING as i64
    })
    .await;
    let (mut pairs, mut number) = (Vec::new(), 0);
    for round in 0..=ROUNDS {
        let mut p50s = Vec::new();
        // Looked at as always, and not at all.
        for due in ["random() * interval '3 seconds'", "interval '10 minutes'"] {
            // Twice: a worker may have been at one of them.
            for _ in 0..2 {
                let sql = format!(
                    "update operations set run_time = now() + {due}
                     where waiting_since is not null and end_time is null"
                );
                client.batch_execute(&sql).await.unwrap();
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let mut times = Vec::new();
            for _ in 0..CREATES {
                number += 1;
                times.push(create(&howdah, &format!("shop{number}")).await);
            }
            p50s.push(median(&times));
        }
        if round > 0 {
            pairs.push((p50s[0], p50s[1]));
        }
    }
    let how = "p50 of CreateDatabase until its operation is done, beside 200 creates that wait, each \
         looked at every 3 s / beside the same that are not looked at; 15 calls a round";
    table.compare("create beside 200 that wait", &pairs, "ms", "<= 1.1", how);
}

/// Milliseconds until a database is there.
async fn create(howdah: &Howdah, id: &str) -> f64 {
    let mut client = howdah.databases().await;
    let begin = Instant::now();
    let accepted = client.create_database(create_database("orders", id)).await;
    let done = howdah.wait(accepted.unwrap().get_ref()).await;
    let took = begin.elapsed().as_secs_f64() * 1e3;
    assert!(done.done && done.result.is_some(), "{done:?}");
    took
}
