//! What workers ask all the time: the operation to claim, and when the next one is due.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use howdah::{
    pg,
    store::{Settings, Store, lease::Capability},
};
use sqlx::{postgres::PgConnectOptions, types::Uuid};

use crate::{
    support::{
        howdah::{Howdah, Options},
        postgres::server,
    },
    table::Table,
};

/// Operations that can be claimed, each of another instance.
const CLAIMABLE: usize = 200;

const HERE: Uuid = Uuid::from_u128(1);
const ELSEWHERE: Uuid = Uuid::from_u128(2);

pub async fn measure(table: &mut Table) {
    let options = Options::external().await;
    let url = options.database_url.clone().unwrap();
    // Makes the tables.
    Howdah::serve(options).await.stop().await;
    let client = server(15).client(url.rsplit('/').next().unwrap()).await;
    let store = Store::new(
        PgConnectOptions::from_str(&url).unwrap(),
        Settings {
            max_connections: 4,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            idle_in_transaction_timeout: Duration::from_secs(10),
        },
    );
    client.batch_execute(&hosts()).await.unwrap();
    let empty = round(&store, &client).await;
    client.batch_execute(&crowd()).await.unwrap();
    client
        .batch_execute("vacuum analyze operations")
        .await
        .unwrap();
    let full = round(&store, &client).await;
    store.close().await;
    let how = "beside 100 000 ended, 100 000 pending for another host, 1 000 waiting / alone; \
         200 calls by one worker";
    for (what, full, empty) in [
        ("claim of an operation", full.claims, empty.claims),
        ("claim when there is none", full.misses, empty.misses),
        ("next time that an operation is due", full.dues, empty.dues),
    ] {
        let pairs: Vec<(f64, f64)> = full.into_iter().zip(empty).collect();
        table.compare(what, &pairs, "ms", "", how);
    }
}

/// Milliseconds of each call.
struct Round {
    claims: Vec<f64>,
    misses: Vec<f64>,
    dues: Vec<f64>,
}

async fn round(store: &Store, client: &pg::Client) -> Round {
    let plans = ["bench.nothing@1".to_owned()];
    let by = Capability {
        worker: Uuid::from_u128(3),
        host: HERE,
        plans: &plans,
        lease_seconds: 3600.0,
        of_one_instance: 2,
    };
    // The first call prepares the statement.
    store.claim_operation(&by).await.unwrap();
    store.next_due(&by).await.unwrap();
    client.batch_execute(&claimable()).await.unwrap();
    let mut round = Round {
        claims: Vec::new(),
        misses: Vec::new(),
        dues: Vec::new(),
    };
    for _ in 0..CLAIMABLE {
        let begin = Instant::now();
        let claim = store.claim_operation(&by).await.unwrap();
        round.claims.push(milliseconds(begin));
        let claim = claim.expect("an operation");
        store
            .release_operation(claim.id, claim.token, 3600.0, None)
            .await
            .unwrap();
    }
    for _ in 0..CLAIMABLE {
        let begin = Instant::now();
        let claim = store.claim_operation(&by).await.unwrap();
        round.misses.push(milliseconds(begin));
        assert!(claim.is_none(), "{claim:?}");
        let begin = Instant::now();
        let due = store.next_due(&by).await.unwrap().seconds;
        round.dues.push(milliseconds(begin));
        assert!(due.is_some_and(|seconds| seconds > 60.0), "{due:?}");
    }
    client
        .batch_execute("delete from operations where target = 'claimable'")
        .await
        .unwrap();
    round
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn hosts() -> String {
    format!("insert into hosts (id, name) values ('{HERE}', 'here'), ('{ELSEWHERE}', 'elsewhere')")
}

/// Operations that all are older than those that can be claimed.
fn crowd() -> String {
    [
        operations(
            "ended",
            "SUCCEEDED",
            100_000,
            HERE,
            "now() - interval '1 day'",
            "now()",
        ),
        operations(
            "elsewhere",
            "PENDING",
            100_000,
            ELSEWHERE,
            "now() - interval '1 day'",
            "null",
        ),
        operations(
            "waiting",
            "RUNNING",
            1_000,
            HERE,
            "now() + interval '1 hour'",
            "null",
        ),
    ]
    .concat()
}

fn claimable() -> String {
    operations("claimable", "PENDING", CLAIMABLE, HERE, "now()", "null")
}

fn operations(name: &str, state: &str, count: usize, host: Uuid, due: &str, end: &str) -> String {
    format!(
        "insert into operations (id, project, kind, plan_version, verb, target, target_uid,
            principal, parameters, state, cancellable, run_time, required_host, end_time)
         select gen_random_uuid(), 'default', 'bench.nothing', 1, 'do', '{name}',
            gen_random_uuid(), 'bench', '{{}}', '{state}', false, {due}, '{host}', {end}
         from generate_series(1, {count});"
    )
}
