//! How a stream ends, and why it says so.

use howdah::pb::v1::{StartInstanceRequest, StopInstanceRequest};
use tonic::{Code, Status};

use super::rig::{Rig, instance, shared};
use crate::support::howdah::{Howdah, Options, instance_name, reason};

const T: &str = "create table t (id int primary key, v text)";

fn check(status: &Status, code: Code, why: &str) {
    let is = (status.code(), reason(status));
    assert_eq!(is, (code, why.to_owned()), "{status:?}");
}

#[tokio::test]
async fn a_stopped_instance_ends_its_streams_after_their_last_change() {
    let howdah = shared().await;
    instance(howdah, "stopped").await;
    let rig = Rig::on(howdah, "stopped", "").await;
    rig.run(T).await;
    let mut subscriber = rig.follow("t").await;
    rig.run("insert into t values (1, 'first')").await;
    subscriber.told(1).await;
    // An ephemeral server has not even written it when it is told to stop.
    rig.run("insert into t values (2, 'last')").await;
    let request = StopInstanceRequest {
        name: instance_name("stopped"),
        ..StopInstanceRequest::default()
    };
    let mut instances = howdah.instances().await;
    let accepted = instances.stop_instance(request).await.unwrap();
    let status = subscriber.end().await;
    check(&status, Code::Unavailable, "SERVER_STOPPING");
    assert_eq!(subscriber.told(1).await, ["insert t -> (2,last) t:2"]);
    let stopped = howdah.wait(accepted.get_ref()).await;
    assert!(stopped.done);
    let status = rig.refusal(rig.request("t")).await;
    check(&status, Code::FailedPrecondition, "INSTANCE_NOT_READY");
    // What is left in the stopped server goes once it runs again.
    let request = StartInstanceRequest {
        name: instance_name("stopped"),
        ..StartInstanceRequest::default()
    };
    let accepted = instances.start_instance(request).await.unwrap();
    howdah.wait(accepted.get_ref()).await;
    let database = rig.database.clone();
    let rig = Rig {
        sql: super::rig::admin(howdah, "stopped", &database).await,
        ..rig
    };
    rig.clean().await;
}

#[tokio::test]
async fn a_lost_walsender_aborts_the_stream() {
    let rig = Rig::new().await;
    rig.run(T).await;
    let mut subscriber = rig.follow("t").await;
    let ended: bool = rig
        .value("select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()")
        .await;
    assert!(ended);
    check(&subscriber.end().await, Code::Aborted, "STREAM_LOST");
    rig.clean().await;
}

#[tokio::test]
async fn other_sessions_of_the_stream_may_be_lost() {
    let rig = Rig::new().await;
    rig.run(T).await;
    let mut subscriber = rig.follow("t").await;
    let ended: i64 = rig
        .value(
            "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity
             where datname = current_database() and backend_type = 'client backend'
             and application_name ~ '^howdah'",
        )
        .await;
    assert_eq!(ended, 2);
    rig.run("insert into t values (1, 'a')").await;
    assert_eq!(subscriber.told(1).await[1..], ["insert t -> (1,a) t:1"]);
    // Their work is still done.
    rig.run("alter table t drop constraint t_pkey").await;
    crate::support::howdah::eventually("updates work again", || async {
        rig.sql.batch_execute("update t set v = 'b'").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_dropped_publication_is_a_loss_and_no_silence() {
    let rig = Rig::new().await;
    rig.run(T).await;
    rig.run("create publication mine for table t").await;
    let mut request = rig.request("");
    request.publication = "mine".into();
    let mut subscriber = rig.subscribe(request).await;
    rig.run("drop publication mine").await;
    rig.run("insert into t values (1, 'lost')").await;
    let status = subscriber.end().await;
    check(&status, Code::FailedPrecondition, "PUBLICATION_LOST");
}

#[tokio::test]
async fn a_dropped_database_ends_its_streams() {
    let rig = Rig::new().await;
    rig.run(T).await;
    let mut subscriber = rig.follow("t").await;
    let elsewhere = super::rig::admin(rig.howdah, &rig.instance, "postgres").await;
    let drop_it = format!("drop database {} with (force)", rig.database);
    // Its slot keeps it from being dropped.
    let refused = elsewhere.batch_execute(&drop_it).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55006");
    rig.run("select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()")
        .await;
    check(&subscriber.end().await, Code::Aborted, "STREAM_LOST");
    crate::support::howdah::eventually("the database can be dropped", || async {
        elsewhere.batch_execute(&drop_it).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn streams_end_when_howdah_does_and_leave_nothing() {
    let mut howdah = Howdah::serve(Options::external().await).await;
    instance(&howdah, "drained").await;
    let (sql, mut subscriber, stalled) = {
        let rig = Rig::on(&howdah, "drained", "").await;
        rig.run(T).await;
        let subscriber = rig.follow("t").await;
        let stalled = rig.follow("t").await;
        (rig.sql, subscriber, stalled)
    };
    let load = "insert into t select i, repeat('x', 1000) from generate_series(1, 20000) i";
    sql.batch_execute(load).await.unwrap();
    let ending = async { subscriber.end().await };
    let (exit, status) = tokio::join!(howdah.stop(), ending);
    assert!(exit.success());
    check(&status, Code::Unavailable, "SHUTTING_DOWN");
    drop(stalled);
    let left = "select (select count(*) from pg_publication) + (select count(*) from pg_replication_slots)";
    let left: i64 = sql.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

/// It can be made again at once, and nothing of the former one stays.
#[tokio::test]
async fn a_connection_that_is_too_old_ends_its_stream_between_two_batches() {
    let options = Options::external()
        .await
        .with("HOWDAH_SERVER_CONNECTION_MAX_AGE", "2s")
        .with("HOWDAH_SERVER_CONNECTION_AGE_GRACE", "6s");
    let howdah = Howdah::serve(options).await;
    howdah.instance("old").await;
    let rig = Rig::on(&howdah, "old", "").await;
    rig.run(T).await;
    let mut subscriber = rig.follow("t").await;
    rig.run("insert into t values (1, 'first')").await;
    let told = subscriber.told(1).await;
    assert_eq!(told.last().unwrap(), "insert t -> (1,first) t:1");
    let status = subscriber.end().await;
    check(&status, Code::Unavailable, "CONNECTION_ENDING");
    let mut next = rig.follow("t").await;
    rig.run("insert into t values (2, 'next')").await;
    let told = next.told(1).await;
    assert_eq!(told.last().unwrap(), "insert t -> (2,next) t:2");
    drop(next);
    rig.clean().await;
}
