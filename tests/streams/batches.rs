//! How changes are put into batches, and what comes when there are none.

use std::time::{Duration, Instant};

use howdah::{
    pb::v1::{SubscribeRequest, change::Event},
    pg,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::rig::Rig;
use crate::support::howdah::reason;

const T: &str =
    "create table t (id int primary key, v text); alter table t alter v set storage external";

fn every(millis: i32, request: SubscribeRequest) -> SubscribeRequest {
    let heartbeat_interval = Some(prost_types::Duration {
        seconds: 0,
        nanos: millis * 1_000_000,
    });
    SubscribeRequest {
        heartbeat_interval,
        ..request
    }
}

#[tokio::test]
async fn idle_streams_have_heartbeats_whose_places_rise() {
    let rig = Rig::new().await;
    rig.run(T).await;
    let mut subscriber = rig.subscribe(every(100, rig.request("t"))).await;
    let first = subscriber.last.clone();
    // Log that is of no interest to this subscriber, in another database even.
    let other = Rig::new().await;
    other.run(T).await;
    let risen = async {
        loop {
            let asked = Instant::now();
            let batch = subscriber.batch().await.unwrap();
            assert!(asked.elapsed() < Duration::from_secs(2));
            assert!(batch.changes.is_empty());
            other
                .run("insert into t values ((select coalesce(max(id), 0) + 1 from t), 'x')")
                .await;
            let (now, then) = (
                batch.server_position.unwrap(),
                first.server_position.unwrap(),
            );
            if now.server_wal_end > then.server_wal_end
                && now.sent > then.sent
                && now.acknowledged > then.sent
                && batch.resume_token > first.resume_token
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(15), risen)
        .await
        .unwrap();
}

#[tokio::test]
async fn heartbeats_go_on_while_changes_of_other_tables_flow() {
    let rig = Rig::new().await;
    rig.run(T).await;
    rig.run("create table busy (id int); create publication everything for all tables")
        .await;
    let mut subscriber = rig.subscribe(every(100, rig.request("t"))).await;
    let writer = rig.session().await;
    let stop = std::cell::Cell::new(false);
    let write = async {
        while !stop.get() {
            let sql = "insert into busy select generate_series(1, 2000)";
            writer.batch_execute(sql).await.unwrap();
        }
    };
    let read = async {
        let end = Instant::now() + Duration::from_secs(2);
        let mut heartbeats = 0;
        while Instant::now() < end {
            let batch = subscriber.batch().await.unwrap();
            assert!(batch.changes.is_empty());
            heartbeats += 1;
        }
        stop.set(true);
        heartbeats
    };
    let ((), heartbeats) = tokio::join!(write, read);
    assert!(heartbeats >= 5, "{heartbeats}");
}

#[tokio::test]
async fn a_trickle_does_not_wait_for_a_batch_to_fill() {
    let rig = Rig::new().await;
    rig.run(T).await;
    let mut subscriber = rig.follow("t").await;
    let writer = rig.session().await;
    let stop = std::cell::Cell::new(false);
    let write = async {
        let mut id = 0;
        while !stop.get() {
            id += 1;
            let sql = format!("insert into t values ({id}, 'x')");
            writer.batch_execute(&sql).await.unwrap();
        }
    };
    // A batch holds at least 2000 of these. Some may be large, where the machine was busy
    // with something else; if a batch waited to be filled, none would be small.
    let read = async {
        let mut sizes = Vec::new();
        while sizes.len() < 40 {
            let size = subscriber.batch().await.unwrap().changes.len();
            sizes.extend((size > 0).then_some(size));
        }
        stop.set(true);
        // The first ones came before the writer was at full speed.
        sizes.into_iter().skip(10).min().unwrap()
    };
    let ((), smallest) = tokio::join!(write, read);
    assert!(smallest < 1500, "{smallest}");
}

#[tokio::test]
async fn until_the_slot_is_made_the_stream_names_what_it_waits_for() {
    let rig = Rig::new().await;
    let other = Rig::new().await;
    rig.run(T).await;
    rig.run("create table u (id int)").await;
    other.run(T).await;
    let gid = format!("gid_{}", rig.database);
    other
        .run(&format!(
            "begin; insert into t values (1, 'x'); prepare transaction '{gid}'"
        ))
        .await;
    rig.run("begin; insert into u values (1)").await;
    let xid: i64 = rig.value("select pg_current_xact_id()::text::bigint").await;
    let request = every(100, rig.request("t"));
    let mut subscriber = rig.try_subscribe(request).await.unwrap();
    let batch = loop {
        let batch = subscriber.batch().await.unwrap();
        assert!(batch.changes.is_empty() && !batch.waiting_for.is_empty());
        let named = |database: &str, gid: &str| {
            batch
                .waiting_for
                .iter()
                .any(|waits| waits.database == database && waits.gid == gid)
        };
        // Other tests have transactions, too.
        if named(&other.database, &gid) && named(&rig.database, "") {
            break batch;
        }
    };
    let running = batch
        .waiting_for
        .iter()
        .find(|waits| waits.database == rig.database)
        .unwrap();
    assert_eq!(i64::from(running.xid), xid);
    let now: i64 = other
        .value("select extract(epoch from now())::bigint")
        .await;
    let began = running.start_time.unwrap().seconds;
    assert!((now - 60..=now).contains(&began));
    rig.run("commit").await;
    other.run(&format!("commit prepared '{gid}'")).await;
    subscriber.ready().await;
    rig.run("insert into t values (2, 'seen')").await;
    assert_eq!(subscriber.told(1).await[1..], ["insert t -> (2,seen) t:2"]);
}

#[tokio::test]
async fn batches_are_cut_at_the_size_that_was_asked_for() {
    let rig = Rig::new().await;
    rig.run(T).await;
    for max_batch_bytes in [1024, 50_000] {
        let request = SubscribeRequest {
            max_batch_bytes,
            ..rig.request("t")
        };
        let mut subscriber = rig.subscribe(request).await;
        rig.run(
            "truncate t; insert into t select i, repeat('x', 100) from generate_series(1, 2000) i",
        )
        .await;
        subscriber.transactions(1).await;
        let largest = i32::try_from(subscriber.largest).unwrap();
        assert!(largest <= max_batch_bytes, "{largest}");
        assert!(largest > max_batch_bytes / 2, "{largest}");
    }
}

#[tokio::test]
async fn a_large_change_has_a_batch_of_its_own() {
    let rig = Rig::new().await;
    rig.run(T).await;
    let mut subscriber = rig.follow("t").await;
    rig.run(
        "insert into t values (1, 'a'); insert into t values (2, repeat('x', 3 << 20));
             insert into t values (3, 'b')",
    )
    .await;
    let mut sizes = Vec::new();
    let mut committed = false;
    while !committed {
        let batch = subscriber.batch().await.unwrap();
        sizes.push(batch.changes.len());
        committed = batch
            .position
            .is_some_and(|position| position.ends_transaction);
    }
    assert_eq!(sizes, [3, 1, 2]);
    assert!(subscriber.largest > 3 << 20);
}

#[tokio::test]
async fn a_change_that_no_message_holds_ends_the_stream() {
    let rig = Rig::new().await;
    rig.run(T).await;
    // The second is more than the reader takes at all.
    for mebibytes in [5, 70] {
        let mut subscriber = rig.follow("t").await;
        rig.run(&format!(
            "begin; insert into t values (1, 'before'); insert into t values (2, repeat('x', {mebibytes} << 20));
             delete from t where id = 1; commit; truncate t"
        ))
        .await;
        let status = subscriber.end().await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert_eq!(reason(&status), "CHANGE_TOO_LARGE");
        let details = status.get_error_details();
        let known = &details.error_info().unwrap().metadata;
        let table = known.get("table").map(String::as_str);
        assert_eq!(table, (mebibytes == 5).then_some("\"public\".\"t\""));
        let lsn: pg::Lsn = known["commit_lsn"].parse().unwrap();
        let begin = subscriber.changes.iter().find_map(|c| match &c.event {
            Some(Event::Begin(begin)) => Some(begin.commit_lsn),
            _ => None,
        });
        assert_eq!(Some(lsn.get()), begin, "{status:?}");
        assert!(
            status.message().contains(&known["commit_lsn"]),
            "{status:?}"
        );
        // What came before it was sent.
        let row = |event: &Option<Event>| matches!(event, Some(Event::Row(_)));
        assert_eq!(
            subscriber.changes.iter().filter(|c| row(&c.event)).count(),
            1
        );
    }
    rig.clean().await;
}
