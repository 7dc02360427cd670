//! `Subscribe` against pg_recvlogical, over the same log.

use std::{process::Command, time::Instant};

use howdah::pb::v1::{SubscribeRequest, change::Event};

use crate::{
    support::{
        howdah::{Howdah, Options, instance_name},
        postgres::{PASSWORD, SUPERUSER, Server, server},
    },
    table::Table,
};

const ROUNDS: usize = 3;

/// Rows of one insert, and updates of one row each.
const ROWS: u64 = 300_000;
const UPDATES: u64 = 30_000;

const TABLE: &str = "create table items (id bigint primary key, name text, n bigint)";

pub async fn measure(table: &mut Table) {
    let howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    let connection = howdah.database("orders", "shop").await;
    psql(&connection.uri, TABLE);
    let server = server(15);
    let database = server.fresh_database().await;
    let uri = format!(
        "postgres://{SUPERUSER}:{PASSWORD}@127.0.0.1:{}/{database}",
        server.port
    );
    psql(&uri, TABLE);
    psql(&uri, "create publication bench for table items");
    let mut pairs = Vec::new();
    for _ in 0..ROUNDS {
        psql(&connection.uri, "truncate items");
        let ours = subscribe(&howdah, &connection.uri).await;
        psql(&uri, "truncate items");
        let theirs = pg_recvlogical(server, &uri);
        pairs.push((ours, theirs));
    }
    let how = "300 000 rows in one insert and 30 000 updates, written before reading begins";
    table.compare("Subscribe", &pairs, "changes/s", "baseline", how);
}

fn psql(uri: &str, sql: &str) {
    let ran = Command::new("psql")
        .args([uri, "-q", "-v", "ON_ERROR_STOP=1", "-c", sql])
        .status();
    assert!(ran.unwrap().success(), "{sql}");
}

fn workload(uri: &str) {
    let insert = format!(
        "insert into items select g, 'name of item ' || g, g % 1000 from generate_series(1, {ROWS}) g"
    );
    psql(uri, &insert);
    let updates = format!(
        "do $$ begin for i in 1..{UPDATES} loop
            update items set n = n + 1 where id = i; commit; end loop; end $$"
    );
    psql(uri, &updates);
}

async fn subscribe(howdah: &Howdah, uri: &str) -> f64 {
    let request = SubscribeRequest {
        instance: instance_name("orders"),
        database: "shop".into(),
        tables: vec!["public.items".into()],
        ..SubscribeRequest::default()
    };
    let mut stream = howdah
        .streams()
        .await
        .subscribe(request)
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap();
    workload(uri);
    let (begin, mut rows) = (Instant::now(), 0);
    while rows < ROWS + UPDATES {
        let batch = stream.message().await.unwrap().expect("the stream goes on");
        let row = |change: &&_| {
            matches!(
                change,
                howdah::pb::v1::Change {
                    event: Some(Event::Row(_)),
                    ..
                }
            )
        };
        rows += batch.changes.iter().filter(row).count() as u64;
    }
    rows as f64 / begin.elapsed().as_secs_f64()
}

/// pg_recvlogical with the same plugin and options, to /dev/null, on a server with the
/// same settings for logical decoding.
fn pg_recvlogical(server: &Server, uri: &str) -> f64 {
    let tool = server.bin.join("pg_recvlogical");
    let run = |arguments: &[&str]| {
        let ran = Command::new(&tool)
            .args(["-d", uri, "-S", "bench"])
            .args(arguments)
            .status();
        assert!(ran.unwrap().success(), "pg_recvlogical {arguments:?}");
    };
    run(&["--create-slot", "-P", "pgoutput"]);
    workload(uri);
    let end = Command::new("psql")
        .args([uri, "-Atqc", "select pg_current_wal_flush_lsn()"])
        .output()
        .unwrap();
    let end = String::from_utf8(end.stdout).unwrap();
    let begin = Instant::now();
    run(&[
        "--start",
        "-f",
        "/dev/null",
        "-o",
        "proto_version=1",
        "-o",
        "publication_names=bench",
        "--endpos",
        end.trim(),
        "--no-loop",
    ]);
    let rate = (ROWS + UPDATES) as f64 / begin.elapsed().as_secs_f64();
    run(&["--drop-slot"]);
    rate
}
