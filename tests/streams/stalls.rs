//! A subscriber that does not read harms nobody but itself.

use std::{
    fs,
    time::{Duration, Instant},
};

use tonic::Code;

use super::{
    rig::{Rig, instance, shared},
    subscriber::Subscriber,
};
use crate::support::howdah::{Howdah, Options, eventually, reason, signal};

const T: &str =
    "create table t (id int primary key, v text); alter table t alter v set storage external";

/// Waits until the walsender is held back: it has sent less than there is, and no more.
async fn held_back(rig: &Rig<'_>) {
    let sent = "select coalesce(min(sent_lsn)::text, '') from pg_stat_replication
        where sent_lsn < pg_current_wal_lsn()";
    let last = std::cell::RefCell::new(String::new());
    eventually("the walsender is held back", || async {
        let now: String = rig.value(sent).await;
        !now.is_empty() && last.replace(now.clone()) == now
    })
    .await;
}

async fn stops_in_time(rig: &Rig<'_>, mut subscriber: Subscriber) {
    let pid: String = rig
        .value("select split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")
        .await;
    let started = Instant::now();
    // What `pg_ctl stop -m fast` sends.
    signal(pid.parse().unwrap(), "INT");
    eventually("the server ends", || async {
        !fs::exists(format!("/proc/{pid}")).unwrap()
    })
    .await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let status = subscriber.end().await;
    let why = (status.code(), reason(&status));
    assert_eq!(why, (Code::Unavailable, "SERVER_STOPPING".to_owned()));
}

/// Resident memory of a process in MiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

#[tokio::test]
async fn a_server_stops_in_time_among_small_transactions() {
    let howdah = shared().await;
    instance(howdah, "stalled-small").await;
    let rig = Rig::on(howdah, "stalled-small", "").await;
    rig.run(T).await;
    let subscriber = rig.follow("t").await;
    rig.run(
        "do $$ begin for i in 1..2000 loop
            insert into t values (i, repeat('x', 30000)); commit; end loop; end $$",
    )
    .await;
    held_back(&rig).await;
    stops_in_time(&rig, subscriber).await;
}

#[tokio::test]
async fn memory_is_bounded_and_a_server_stops_in_time_inside_a_large_transaction() {
    let howdah = Howdah::serve(Options::external().await).await;
    instance(&howdah, "stalled-large").await;
    let rig = Rig::on(&howdah, "stalled-large", "").await;
    rig.run(T).await;
    let subscriber = rig.follow("t").await;
    let before = resident(howdah.pid());
    rig.run("insert into t select i, repeat('x', 30000) from generate_series(1, 10000) i")
        .await;
    held_back(&rig).await;
    let after = resident(howdah.pid());
    assert!(after < before + 64, "from {before} to {after} MiB");
    stops_in_time(&rig, subscriber).await;
}

#[tokio::test]
async fn a_stalled_stream_outlives_a_short_timeout_of_the_server() {
    let howdah = shared().await;
    instance(howdah, "patient").await;
    let rig = Rig::on(howdah, "patient", "").await;
    rig.run("alter system set wal_sender_timeout = '3s'").await;
    rig.run("alter role howdah_admin set wal_sender_timeout = '3s'; select pg_reload_conf()")
        .await;
    rig.run(T).await;
    let mut subscriber = rig.follow("t").await;
    rig.run("insert into t select i, repeat('x', 30000) from generate_series(1, 500) i")
        .await;
    held_back(&rig).await;
    // Long enough for the server to have given it up twice.
    let since: String = rig.value("select clock_timestamp()::text").await;
    let patient = format!(
        "select count(*) = 1 and clock_timestamp() > '{since}'::timestamptz + interval '7 s'
        from pg_stat_replication"
    );
    eventually("time passes", || async {
        rig.value::<bool>(&patient).await
    })
    .await;
    let changes = subscriber.transactions(1).await;
    assert_eq!(changes.len(), 503);
    rig.run("insert into t values (0, 'on')").await;
    assert_eq!(subscriber.told(1).await, ["insert t -> (0,on) t:0"]);
}
