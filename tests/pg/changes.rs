//! What arrives on a stream.

use std::time::Duration;

use howdah::pg::pgoutput::{Message, PrepareKind};
use howdah::pg::replication::{Limits, Streaming};
use howdah::pg::{Lsn, Tls};

use super::rig::Rig;
use crate::support::postgres::{Server, server};

#[tokio::test]
async fn every_kind_of_change_arrives() {
    let rig = Rig::new(server(15)).await;
    for tls in [Tls::Disable, Tls::Require] {
        rig.run("truncate t").await;
        let connection = rig
            .connect(&rig.server.tcp(tls), Duration::from_secs(60))
            .await;
        let mut stream = rig.stream_on(connection, Limits::default(), |_| {}).await;
        rig.run(
            "begin; insert into t values (1, null), (2, 'two');
             update t set v = 'zwei' where id = 2; update t set id = 3 where id = 1;
             delete from t where id = 3;
             select pg_logical_emit_message(true, 'note', 'hello'); commit;
             truncate t restart identity cascade",
        )
        .await;
        let expected = [
            "relation public.t(id,v)",
            "insert 1,-",
            "insert 2,two",
            "update ->2,zwei",
            "update key(1,-)->3,-",
            "delete key(3,-)",
            "message note hello true",
            "truncate 1 cascade=true restart=true",
        ];
        assert_eq!(stream.told(2).await, expected);
        assert!(stream.inner.received() > Lsn::ZERO);
        stream.inner.close().await;
    }
}

#[tokio::test]
async fn values_are_written_the_same_whatever_the_database_prefers() {
    let rig = Rig::new(server(15)).await;
    let database = &rig.database;
    rig.run(&format!(
        "alter database {database} set datestyle = 'SQL, DMY';
         alter database {database} set timezone = 'Asia/Tokyo';
         alter database {database} set extra_float_digits = -5;
         alter database {database} set bytea_output = 'escape';
         alter database {database} set intervalstyle = 'iso_8601';
         create table v (id int primary key, d timestamptz, f float8, b bytea, i interval, c regclass)"
    ))
    .await;
    let mut stream = rig.stream(Limits::default(), |_| {}).await;
    rig.run(
        "insert into v values (1, '2026-01-02 03:04:05+00', 0.1::float8 + 0.2, '\\x00ff', '1 day', 't')",
    )
    .await;
    let told = stream.told(1).await;
    let expected = r"insert 1,2026-01-02 03:04:05+00,0.30000000000000004,\x00ff,1 day,public.t";
    assert_eq!(told.last().unwrap(), expected);
}

#[tokio::test]
async fn toast_identity_and_binary() {
    let rig = Rig::new(server(15)).await;
    rig.run(
        "alter table t add w int; alter table t alter v set storage external;
         insert into t select 1, string_agg(md5(i::text), ''), 5 from generate_series(1, 500) i",
    )
    .await;
    let mut stream = rig.stream(Limits::default(), |o| o.binary = true).await;
    rig.run("update t set w = 6; alter table t replica identity full; delete from t")
        .await;
    let told = stream.told(1).await;
    assert!(
        told.contains(&"update ->[0, 0, 0, 1],unchanged,[0, 0, 0, 6]".to_owned()),
        "{told:?}"
    );
    assert!(
        told.last()
            .unwrap()
            .starts_with("delete full([0, 0, 0, 1],[63, 34,"),
        "{told:?}"
    );
}

#[tokio::test]
async fn large_transactions_arrive_while_they_run() {
    let own = Server::start(15, &[("logical_decoding_work_mem", "64kB")]);
    let rig = Rig::new(&own).await;
    let mut stream = rig
        .stream(Limits::default(), |o| {
            o.protocol = 2;
            o.streaming = Streaming::On;
        })
        .await;
    rig.run(
        "begin; insert into t select i, 'x' from generate_series(1, 5000) i;
         savepoint s; insert into t select i, 'y' from generate_series(5001, 9000) i;
         rollback to s; insert into t values (10000, 'z')",
    )
    .await;
    // Before anything is committed.
    let mut early = 0;
    stream
        .until(|message| {
            if let Message::Insert(insert) = message {
                assert!(insert.xid.is_some());
                early += 1;
            }
            early == 1000
        })
        .await;
    rig.run("commit").await;
    let (mut aborted, mut starts) = (0, 0);
    stream
        .until(|message| {
            starts += usize::from(matches!(message, Message::StreamStart { .. }));
            aborted += usize::from(matches!(message, Message::StreamAbort(a) if a.xid != a.subxid));
            matches!(message, Message::StreamCommit { .. })
        })
        .await;
    assert_eq!(aborted, 1);
    assert!(starts > 1);
}

#[tokio::test]
async fn prepared_transactions_arrive_when_they_are_prepared() {
    // A prepared transaction would keep the other tests from making slots.
    let own = Server::start(15, &[]);
    let rig = Rig::new(&own).await;
    let mut stream = rig
        .stream(Limits::default(), |o| {
            o.protocol = 3;
            o.two_phase = true;
        })
        .await;
    let name = &rig.database;
    rig.run("begin; insert into t values (1, 'a')").await;
    rig.run(&format!("prepare transaction '{name}a'")).await;
    // The server leaves out the rows of what it knows to be rolled back.
    let told = stream
        .told_until(|m| matches!(m, Message::Prepared(PrepareKind::Prepare, _)))
        .await;
    let expected = [
        format!("Begin {name}a"),
        "relation public.t(id,v)".into(),
        "insert 1,a".into(),
        format!("Prepare {name}a"),
    ];
    assert_eq!(told, expected);
    rig.run(&format!("rollback prepared '{name}a'")).await;
    rig.run("begin; insert into t values (2, 'b')").await;
    rig.run(&format!("prepare transaction '{name}b'")).await;
    rig.run(&format!("commit prepared '{name}b'")).await;
    let expected = [
        format!("rollback {name}a"),
        format!("Begin {name}b"),
        "insert 2,b".into(),
        format!("Prepare {name}b"),
        format!("Commit {name}b"),
    ];
    assert_eq!(stream.told(1).await, expected);
}
