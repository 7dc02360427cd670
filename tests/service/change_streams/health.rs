//! What is observed of slots: lost, retaining too much, and how far a stream is.

use std::time::Duration;

use howdah::pb::v1::{
    ChangeStream, Condition, DeleteDatabaseRequest, change_stream::State, condition::Status,
};
use tonic::Code;

use super::rig::{MAJORS, database, delete, get, is_clean, items, made, name};
use crate::{
    service::rig::{failure, labelled},
    streams::rig::{Rig, admin},
    support::howdah::{eventually, instance_name, succeeded},
};

/// The condition of that type, if there is one.
fn condition(stream: &ChangeStream, kind: &str) -> Option<Condition> {
    let mut conditions = stream.conditions.iter();
    conditions
        .find(|condition| condition.r#type == kind)
        .cloned()
}

/// Waits until a condition says that.
async fn observed(
    rig: &Rig<'_>,
    id: &str,
    kind: &str,
    status: Status,
    reason: &str,
) -> ChangeStream {
    let stream = name(rig, id);
    let look = async || get(rig.howdah, &stream).await.unwrap();
    eventually(&format!("{kind} is {status:?}"), async || {
        let found = condition(&look().await, kind);
        found.is_some_and(|it| it.status() == status && it.reason == reason)
    })
    .await;
    look().await
}

/// Writes some 4 MB of log.
const WRITE: &str = "select count(pg_logical_emit_message(false, 'test', repeat('x', 100000)))
    from generate_series(1, 40)";

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_dropped_by_hand_is_lost() {
    for major in MAJORS {
        let rig = database(major).await;
        let stream = made(&rig, "s", items(&rig)).await;
        rig.run(&format!(
            "select pg_drop_replication_slot('{}')",
            stream.slot
        ))
        .await;
        let lost = observed(&rig, "s", "Lost", Status::True, "SLOT_DROPPED").await;
        assert_eq!(lost.state(), State::Lost);
        assert_ne!(lost.etag, stream.etag);
        delete(rig.howdah, &stream.name, false).await;
        is_clean(&rig, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slot_retains_is_shown_and_bounded() {
    for major in MAJORS {
        let rig = database(major).await;
        let bounded = ChangeStream {
            max_retained_bytes: 2_000_000,
            ..items(&rig)
        };
        let stream = made(&rig, "s", bounded).await;
        let begin = get(rig.howdah, &stream.name)
            .await
            .unwrap()
            .progress
            .unwrap();
        assert!(begin.acknowledged > 0 && begin.acknowledged == begin.confirmed);
        assert!(begin.restart <= begin.confirmed && begin.confirmed <= begin.wal_end);
        assert!(!begin.active && begin.sent == 0);
        assert_eq!(begin.wal_status, "reserved");
        assert!(begin.safe_bytes > 2_000_000, "{begin:?}");
        rig.run(WRITE).await;
        let now = observed(&rig, "s", "Retaining", Status::True, "BOUND_EXCEEDED").await;
        assert_eq!(now.state(), State::Ready);
        let far = now.progress.unwrap();
        assert!(
            far.retained_bytes > 2_000_000 && far.lag_bytes > 2_000_000,
            "{far:?}"
        );
        assert_eq!(far.acknowledged, begin.acknowledged);
        let label = format!(
            "howdah_change_stream_id=\"{}\"",
            stream.name.rsplit('/').next().unwrap()
        );
        eventually("three rungs are behind", async || {
            let lag = labelled(rig.howdah, "howdah_change_streams_lag_bytes", &label).await;
            lag.is_some_and(|bytes| bytes > 6_000_000)
        })
        .await;
        // What a reader of the slot does. The server moves the slot by what it logs of the
        // transactions under way, at each checkpoint.
        let advance = format!(
            "checkpoint; select pg_replication_slot_advance('{}', pg_current_wal_flush_lsn())",
            stream.slot
        );
        eventually("the slot retains less", async || {
            rig.run(&advance).await;
            let now = get(rig.howdah, &stream.name).await.unwrap();
            let found = condition(&now, "Retaining");
            found.is_some_and(|it| it.status() == Status::False && it.reason == "BOUND_KEPT")
        })
        .await;
        delete(rig.howdah, &stream.name, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_dropped_above_its_bound_alone() {
    for major in MAJORS {
        let rig = database(major).await;
        let bounded = |bytes| ChangeStream {
            max_retained_bytes: bytes,
            drop_when_exceeded: true,
            ..items(&rig)
        };
        let small = made(&rig, "small", bounded(2_000_000)).await;
        let large = made(&rig, "large", bounded(1 << 40)).await;
        rig.run(WRITE).await;
        let lost = observed(&rig, "small", "Lost", Status::True, "RETENTION_EXCEEDED").await;
        assert_eq!(lost.state(), State::Lost);
        let there: i64 = rig
            .value("select count(*) from pg_replication_slots where database = current_database()")
            .await;
        assert_eq!(there, 1);
        assert_eq!(
            get(rig.howdah, &large.name).await.unwrap().state(),
            State::Ready
        );
        delete(rig.howdah, &small.name, false).await;
        delete(rig.howdah, &large.name, false).await;
        is_clean(&rig, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_followed_is_deleted_by_force() {
    let howdah = super::rig::shared().await;
    howdah.database("v18", "followed").await;
    let rig = Rig {
        howdah,
        instance: "v18".into(),
        database: "followed".into(),
        sql: admin(howdah, "v18", "followed").await,
    };
    rig.run("create table items (id int primary key)").await;
    let stream = made(&rig, "s", items(&rig)).await;
    let request = DeleteDatabaseRequest {
        name: format!("{}/databases/followed", instance_name("v18")),
        ..DeleteDatabaseRequest::default()
    };
    let mut databases = howdah.databases().await;
    let accepted = databases.delete_database(request.clone()).await.unwrap();
    let refused = howdah.wait(accepted.get_ref()).await;
    assert_eq!(
        failure(&refused),
        (Code::FailedPrecondition, "DATABASE_IN_USE".to_owned())
    );
    let shown = format!("{:?}", refused.result);
    assert!(shown.contains("`s-followed`"), "{shown}");
    let request = DeleteDatabaseRequest {
        force: true,
        ..request
    };
    let accepted = databases.delete_database(request).await.unwrap();
    succeeded::<()>(&howdah.wait(accepted.get_ref()).await);
    let lost = get(howdah, &stream.name).await.unwrap();
    assert_eq!(lost.state(), State::Lost);
    assert_eq!(condition(&lost, "Lost").unwrap().reason, "DATABASE_DELETED");
    delete(howdah, &stream.name, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_shown_while_its_server_is_away() {
    let howdah = crate::support::howdah::Howdah::serve(super::rig::options().await).await;
    crate::streams::rig::versioned_instance(&howdah, "orders", "15").await;
    let rig = Rig::on(&howdah, "orders", "").await;
    rig.run("create table items (id int primary key)").await;
    let stream = made(&rig, "s", items(&rig)).await;
    for pid in howdah.servers() {
        crate::support::howdah::signal(pid, "STOP");
    }
    let asked = tokio::time::timeout(Duration::from_secs(8), get(&howdah, &stream.name));
    let shown = asked.await.expect("an answer in time").unwrap();
    for pid in howdah.servers() {
        crate::support::howdah::signal(pid, "CONT");
    }
    assert_eq!((shown.uid, shown.progress), (stream.uid, None));
}
