//! A slot that waits for open transactions.

use tonic::Code;

use super::rig::{MAJORS, ask, cancel, database, delete, get, is_clean, items, name, waits_until};
use crate::{
    service::rig::failure,
    support::howdah::{eventually, succeeded},
};
use howdah::pb::v1::ChangeStream;

#[tokio::test(flavor = "multi_thread")]
async fn the_transactions_that_a_slot_waits_for_are_named() {
    for major in MAJORS {
        let rig = database(major).await;
        rig.run("begin; insert into items values (1, 'open')").await;
        let xid: String = rig.value("select pg_current_xact_id()::text").await;
        let other = rig.session().await;
        let gid = format!("gid-{}", rig.database);
        let prepare =
            format!("begin; insert into items values (2, 'x'); prepare transaction '{gid}'");
        other.batch_execute(&prepare).await.unwrap();
        let operation = ask(&rig, "s", items(&rig)).await.unwrap();
        waits_until(
            rig.howdah,
            &operation,
            &format!("{xid} in `{}`", rig.database),
        )
        .await;
        waits_until(rig.howdah, &operation, &format!("prepared as `{gid}`")).await;
        rig.run("commit").await;
        let commit = format!("commit prepared '{gid}'");
        other.batch_execute(&commit).await.unwrap();
        let _: ChangeStream = succeeded(&rig.howdah.wait(&operation).await);
        delete(rig.howdah, &name(&rig, "s"), false).await;
        is_clean(&rig, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_waits_is_taken_back() {
    for major in MAJORS {
        let rig = database(major).await;
        rig.run("begin; insert into items values (1, 'open')").await;
        let operation = ask(&rig, "s", items(&rig)).await.unwrap();
        waits_until(rig.howdah, &operation, "open transactions").await;
        cancel(rig.howdah, &operation).await;
        let done = rig.howdah.wait(&operation).await;
        assert_eq!(
            failure(&done),
            (Code::Cancelled, "OPERATION_CANCELLED".to_owned())
        );
        assert_eq!(
            get(rig.howdah, &name(&rig, "s")).await.unwrap_err().code(),
            Code::NotFound
        );
        // While the transaction is still open.
        is_clean(&rig, &[]).await;
        rig.run("commit").await;
        is_clean(&rig, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_was_ended_is_replaced() {
    let rig = database("18").await;
    rig.run("begin; insert into items values (1, 'open')").await;
    let operation = ask(&rig, "s", items(&rig)).await.unwrap();
    waits_until(rig.howdah, &operation, "open transactions").await;
    let other = rig.session().await;
    let end = "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots
        where active_pid is not null and database = current_database()";
    let ended = other.query(end, &[]).await.unwrap();
    assert_eq!(ended.len(), 1);
    let there = "select 1 from pg_replication_slots
        where active_pid is not null and database = current_database()";
    eventually("another backend makes it", async || {
        !other.query(there, &[]).await.unwrap().is_empty()
    })
    .await;
    rig.run("commit").await;
    let _: ChangeStream = succeeded(&rig.howdah.wait(&operation).await);
    delete(rig.howdah, &name(&rig, "s"), false).await;
}
