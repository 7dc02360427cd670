//! Deletions that wait for their server, and crashes of Howdah while a slot is made.

use howdah::pb::v1::{ChangeStream, Instance, StartInstanceRequest, StopInstanceRequest};

use super::rig::{
    ask, ask_to_delete, get, is_clean, items, made, name, objects, options, waits_until,
};
use crate::{
    streams::rig::{Rig, admin, versioned_instance},
    support::howdah::{Howdah, eventually, instance_name, succeeded},
};

async fn orders(howdah: &Howdah) -> Rig<'_> {
    versioned_instance(howdah, "orders", "15").await;
    let rig = Rig::on(howdah, "orders", "").await;
    rig.run("create table items (id int primary key)").await;
    rig
}

async fn stop(howdah: &Howdah) {
    let request = StopInstanceRequest {
        name: instance_name("orders"),
        ..StopInstanceRequest::default()
    };
    let accepted = howdah.instances().await.stop_instance(request).await;
    let _: Instance = succeeded(&howdah.wait(accepted.unwrap().get_ref()).await);
}

async fn start(howdah: &Howdah) {
    let request = StartInstanceRequest {
        name: instance_name("orders"),
        ..StartInstanceRequest::default()
    };
    let accepted = howdah.instances().await.start_instance(request).await;
    let _: Instance = succeeded(&howdah.wait(accepted.unwrap().get_ref()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_a_stopped_server() {
    let howdah = Howdah::serve(options().await).await;
    let rig = orders(&howdah).await;
    made(&rig, "s", items(&rig)).await;
    let (stream, database) = (name(&rig, "s"), rig.database.clone());
    stop(&howdah).await;
    let operation = ask_to_delete(&howdah, &stream, false).await.unwrap();
    waits_until(&howdah, &operation, "to be started, which is STOPPED").await;
    start(&howdah).await;
    succeeded::<()>(&howdah.wait(&operation).await);
    assert!(get(&howdah, &stream).await.is_err());
    let client = admin(&howdah, "orders", &database).await;
    assert!(objects(&client).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_being_made_outlives_howdah() {
    let mut howdah = Howdah::serve(options().await).await;
    let rig = orders(&howdah).await;
    rig.run("begin; insert into items values (1)").await;
    let operation = ask(&rig, "s", items(&rig)).await.unwrap();
    waits_until(&howdah, &operation, "open transactions").await;
    let (stream, database) = (name(&rig, "s"), rig.database.clone());
    let Rig { sql, .. } = rig;
    let maker = "select active_pid from pg_replication_slots where database = current_database()";
    let before: i32 = sql.query_one(maker, &[]).await.unwrap().get(0);
    howdah.kill().await;
    howdah.start("").await;
    waits_until(&howdah, &operation, "open transactions").await;
    // Nobody has begun a second one.
    let after: i32 = sql.query_one(maker, &[]).await.unwrap().get(0);
    assert_eq!(before, after);
    sql.batch_execute("commit").await.unwrap();
    let _: ChangeStream = succeeded(&howdah.wait(&operation).await);
    let operation = ask_to_delete(&howdah, &stream, false).await.unwrap();
    succeeded::<()>(&howdah.wait(&operation).await);
    let client = admin(&howdah, "orders", &database).await;
    eventually("nothing is left", async || {
        objects(&client).await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_database_that_is_gone_is_deleted() {
    let rig = super::rig::database("18").await;
    let stream = made(&rig, "s", items(&rig)).await;
    let Rig {
        howdah,
        instance,
        database,
        sql,
    } = rig;
    drop(sql);
    let outside = admin(howdah, &instance, "postgres").await;
    let gone = format!("drop database {database} with (force)");
    outside.batch_execute(&gone).await.unwrap();
    super::rig::delete(howdah, &stream.name, false).await;
    let rig = super::rig::database("18").await;
    is_clean(&rig, &[]).await;
}
