//! Slots, feedback, bounds and the end of streams.

use std::time::Duration;

use howdah::pg::pgoutput::Message;
use howdah::pg::replication::{Item, Limits, SlotOptions, Snapshot};
use howdah::pg::{Error, Lsn, Tls};

use super::rig::{Rig, Stream, start_options};
use crate::support::{
    howdah::eventually,
    postgres::{LIMIT, Server, server},
};

#[tokio::test]
async fn the_slot_moves_with_acknowledgements_alone() {
    let rig = Rig::new(server(15)).await;
    let target = rig.server.target();
    let mut connection = rig.connect(&target, Duration::from_millis(300)).await;
    let slot = format!("durable_{}", rig.database);
    let system = connection.identify_system().await.unwrap();
    assert_eq!(system.database.as_deref(), Some(rig.database.as_str()));
    assert!(system.timeline == 1 && system.system_id > 0);
    let options = SlotOptions {
        snapshot: Snapshot::Export,
        ..SlotOptions::default()
    };
    let created = connection.create_slot(&slot, &options).await.unwrap();
    assert!(
        created.snapshot.is_some()
            && created.consistent_point <= system.flush_lsn.max(created.consistent_point)
    );
    let place = format!(
        "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = '{slot}'"
    );
    let before = rig.value(&place).await;

    let inner = connection
        .start(&start_options(&slot), Limits::default())
        .await
        .unwrap();
    let mut stream = Stream::new(inner);
    rig.run("insert into t values (1, 'a')").await;
    let mut end = Lsn::ZERO;
    stream
        .until(|message| match message {
            Message::Commit(commit) => {
                end = commit.end_lsn;
                true
            }
            _ => false,
        })
        .await;
    // Several feedbacks (each 100 ms) that acknowledge nothing.
    let reply = format!(
        "select reply_time::text from pg_stat_replication s join pg_replication_slots r
           on r.active_pid = s.pid where r.slot_name = '{slot}'"
    );
    let mut seen = std::collections::HashSet::new();
    while seen.len() < 5 {
        seen.insert(rig.value(&reply).await);
    }
    assert_eq!(rig.value(&place).await, before);

    // Far ahead of everything: only what was received counts.
    stream.inner.acknowledge(Lsn::MAX);
    let moved = async {
        while rig.value(&place).await == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, moved).await.unwrap();
    let confirmed: Lsn = rig.value(&place).await.parse().unwrap();
    assert!(confirmed >= end && confirmed <= stream.inner.received());

    // In use, then free, then gone.
    let mut other = rig.connect(&target, LIMIT).await;
    let error = other.drop_slot(&slot, false).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("55006"));
    stream.inner.close().await;
    other.drop_slot(&slot, true).await.unwrap();
    assert_eq!(
        rig.value(&format!(
            "select count(*)::text from pg_replication_slots where slot_name = '{slot}'"
        ))
        .await,
        "0"
    );
}

#[tokio::test]
async fn a_stalled_consumer_is_not_given_up_and_loses_nothing() {
    let rig = Rig::new(server(15)).await;
    let connection = rig
        .connect(&rig.server.target(), Duration::from_millis(900))
        .await;
    let limits = Limits {
        buffer: 64 * 1024,
        ..Limits::default()
    };
    let mut stream = rig.stream_on(connection, limits, |_| {}).await;
    rig.run("insert into t select i, repeat('x', 1000) from generate_series(1, 50000) i")
        .await;
    let first = stream.inner.next().await.unwrap().unwrap();
    // The server hears from it after three times what it allows a silent client.
    let begun = rig.value("select clock_timestamp()::text").await;
    let heard = format!(
        "select exists (select from pg_stat_replication r join pg_replication_slots s
            on s.active_pid = r.pid where s.database = current_database()
            and r.reply_time > '{begun}'::timestamptz + interval '2.7 s')::text"
    );
    eventually("it is not given up", || async {
        rig.value(&heard).await == "true"
    })
    .await;
    assert!(stream.inner.received() > Lsn::ZERO);
    let (mut rows, mut commit) = (0, false);
    for item in first.items() {
        let Item::Data(data) = item else { continue };
        rows += usize::from(data.payload.starts_with(b"I"));
        // The relation comes before its rows.
        stream.decoder.decode(data.payload).unwrap();
    }
    drop(first);
    stream
        .until(|message| {
            rows += usize::from(matches!(message, Message::Insert(_)));
            commit = matches!(message, Message::Commit(_));
            commit
        })
        .await;
    assert_eq!(rows, 50_000);
}

#[tokio::test]
async fn messages_larger_than_every_buffer_pass_whole() {
    let rig = Rig::new(server(15)).await;
    let connection = rig
        .connect(&rig.server.tcp(Tls::Require), Duration::from_secs(60))
        .await;
    let limits = Limits {
        buffer: 1024 * 1024,
        ..Limits::default()
    };
    let mut stream = rig.stream_on(connection, limits, |_| {}).await;
    rig.run("insert into t values (1, repeat('0123456789', 2000000)), (2, 'small')")
        .await;
    let mut lengths = Vec::new();
    stream
        .until(|message| {
            if let Message::Insert(insert) = message {
                lengths.push(insert.new.wire_len());
            }
            matches!(message, Message::Commit(_))
        })
        .await;
    assert_eq!(lengths, [20_000_000 + 11, 16]);
}

#[tokio::test]
async fn messages_over_the_limit_end_the_stream() {
    let rig = Rig::new(server(15)).await;
    let limits = Limits {
        message: 1_000_000,
        ..Limits::default()
    };
    let mut stream = rig.stream(limits, |_| {}).await;
    rig.run("insert into t values (1, repeat('0123456789', 200000))")
        .await;
    let error = stream.end().await;
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn a_dropped_stream_leaves_no_slot() {
    let rig = Rig::new(server(15)).await;
    let stream = rig.stream(Limits::default(), |_| {}).await;
    let count = format!(
        "select count(*)::text from pg_replication_slots where database = '{}'",
        rig.database
    );
    assert_eq!(rig.value(&count).await, "1");
    drop(stream);
    let gone = async {
        while rig.value(&count).await != "0" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
}

#[tokio::test]
async fn a_slot_that_waits_can_be_cancelled() {
    // A running transaction that has written is in the way of every slot.
    let own = Server::start(15, &[]);
    let rig = Rig::new(&own).await;
    rig.run("begin; insert into t values (1, 'a')").await;
    let mut connection = rig.connect(&rig.server.target(), LIMIT).await;
    let canceller = connection.canceller().unwrap();
    assert!(canceller.pid() > 0);
    let options = SlotOptions {
        temporary: true,
        ..SlotOptions::default()
    };
    let cancel = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            canceller.cancel(LIMIT).await.unwrap();
        }
    };
    let error = tokio::select! {
        made = connection.create_slot("waits", &options) => made.unwrap_err(),
        () = cancel => unreachable!(),
    };
    assert_eq!(error.sqlstate(), Some("57014"));
    // The connection is none the worse for it.
    rig.run("rollback").await;
    connection.create_slot("waits", &options).await.unwrap();
}

#[tokio::test]
async fn what_the_server_refuses_and_ends_is_told_as_it_said_it() {
    let rig = Rig::new(server(15)).await;
    let connection = rig.connect(&rig.server.target(), LIMIT).await;
    let error = connection
        .start(&start_options("none"), Limits::default())
        .await
        .unwrap_err();
    assert_eq!(error.sqlstate(), Some("42704"));

    // 15 ends a stream whose publication was not there.
    let mut stream = rig
        .stream(Limits::default(), |o| o.publications = vec!["q".into()])
        .await;
    rig.run("insert into t values (7, 'a')").await;
    assert_eq!(stream.end().await.sqlstate(), Some("42704"));

    let mut stream = rig.stream(Limits::default(), |_| {}).await;
    let kill = format!(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where database = '{}'",
        rig.database
    );
    rig.run(&kill).await;
    let error = stream.end().await;
    assert_eq!(error.sqlstate(), Some("57P01"));
    assert!(error.is_connection());
    assert!(stream.inner.next().await.is_none());
}

#[tokio::test]
async fn a_command_that_was_given_up_spoils_the_connection() {
    let rig = Rig::new(server(15)).await;
    let mut connection = rig.connect(&rig.server.target(), LIMIT).await;
    let sleep = connection.query("select pg_sleep(1)");
    assert!(
        tokio::time::timeout(Duration::from_millis(20), sleep)
            .await
            .is_err()
    );
    let error = connection.identify_system().await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
}
