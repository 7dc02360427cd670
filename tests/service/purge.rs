//! What becomes of the data of an instance that goes for good.

use std::fs;

use howdah::pb::{
    google::longrunning::Operation,
    v1::{DeleteInstanceRequest, Instance},
};

use super::rig::{Metadata, failure, labelled};
use crate::{
    soak::crash::world::is_success,
    support::howdah::{Howdah, Options, create_instance, eventually, instance_name},
};

async fn create(howdah: &Howdah, id: &str) {
    let request = create_instance(id, Instance::default());
    let accepted = howdah.instances().await.create_instance(request).await;
    assert!(is_success(&howdah.wait(accepted.unwrap().get_ref()).await));
}

async fn delete(howdah: &Howdah, id: &str, purge: bool) {
    assert!(is_success(&deletion(howdah, id, purge).await));
}

async fn deletion(howdah: &Howdah, id: &str, purge: bool) -> Operation {
    let request = DeleteInstanceRequest {
        name: instance_name(id),
        purge,
        ..DeleteInstanceRequest::default()
    };
    let accepted = howdah.instances().await.delete_instance(request).await;
    howdah.wait(accepted.unwrap().get_ref()).await
}

/// How many directories there are in `servers` and in `trash`.
fn left(howdah: &Howdah) -> (usize, usize) {
    (howdah.local("servers").len(), howdah.local("trash").len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_was_asked_for_leaves_no_data() {
    let howdah = Howdah::serve(Options::external().await).await;
    create(&howdah, "orders").await;
    delete(&howdah, "orders", true).await;
    assert_eq!(left(&howdah), (0, 0));
    // One that was deleted before is kept until a purge is requested.
    create(&howdah, "orders").await;
    delete(&howdah, "orders", false).await;
    assert_eq!(left(&howdah), (1, 0));
    delete(&howdah, "orders", true).await;
    assert_eq!(left(&howdah), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_in_time_goes_to_the_trash_if_it_was_durable() {
    let options = Options::external().await;
    let howdah = Howdah::serve(options.with("HOWDAH_LOCAL_PURGE_DELAY", "0s")).await;
    create(&howdah, "orders").await;
    howdah.instance("scratch").await;
    for id in ["orders", "scratch"] {
        delete(&howdah, id, false).await;
    }
    eventually("both are purged", async || left(&howdah) == (0, 1)).await;
}

async fn purge_by_force(howdah: &Howdah, id: &str) {
    let request = DeleteInstanceRequest {
        name: instance_name(id),
        force: true,
        purge: true,
        ..DeleteInstanceRequest::default()
    };
    let accepted = howdah.instances().await.delete_instance(request).await;
    assert!(is_success(&howdah.wait(accepted.unwrap().get_ref()).await));
    assert_eq!(left(howdah), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_is_under_way_lets_go_for_the_purge() {
    let howdah = Howdah::serve(Options::external().await).await;
    let metadata = Metadata::of(&howdah).await;
    let request = create_instance("orders", Instance::default());
    let accepted = howdah.instances().await.create_instance(request).await;
    let begun = "operation_stages where state = 'RUNNING'";
    eventually("it has begun", async || metadata.count(begun).await == 1).await;
    purge_by_force(&howdah, "orders").await;
    let creation = howdah.operation(&accepted.unwrap().get_ref().name).await;
    assert_eq!(failure(&creation).1, "INSTANCE_DELETED");
    // Not by the end of its lease.
    let held = "operations where lease_until is not null";
    assert_eq!(metadata.count(held).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_begins_when_the_lease_of_a_silent_worker_is_over() {
    let howdah = Howdah::serve(Options::external().await).await;
    let metadata = Metadata::of(&howdah).await;
    howdah.instance("orders").await;
    // As a frozen worker leaves an operation that was given up.
    let frozen = "update operations set worker = gen_random_uuid(),
        lease_until = clock_timestamp() + interval '2 seconds'";
    metadata.0.batch_execute(frozen).await.unwrap();
    let beside = "operations where end_time is null and token > 0
        and exists (select from operations_given_up)";
    let over = async {
        eventually("the lease is over", async || {
            assert_eq!(metadata.count(beside).await, 0);
            metadata.count("operations_given_up").await == 0
        })
        .await;
    };
    tokio::join!(over, purge_by_force(&howdah, "orders"));
}

/// What could not be done when it was asked for is done later, and is no less.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_failed_still_leaves_no_data() {
    let howdah = Howdah::serve(Options::external().await).await;
    create(&howdah, "orders").await;
    delete(&howdah, "orders", false).await;
    fail_and_purge(&howdah).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_of_a_live_instance_that_failed_goes_on() {
    let howdah = Howdah::serve(Options::external().await).await;
    create(&howdah, "orders").await;
    fail_and_purge(&howdah).await;
}

async fn fail_and_purge(howdah: &Howdah) {
    let trash = howdah.data_dir().join("local/trash");
    let aside = howdah.data_dir().join("aside");
    fs::rename(&trash, &aside).unwrap();
    fs::write(&trash, "").unwrap();
    let (_, why) = failure(&deletion(howdah, "orders", true).await);
    assert_eq!(why, "DATA_DIR_DAMAGED");
    fs::remove_file(&trash).unwrap();
    fs::rename(&aside, &trash).unwrap();
    let metadata = Metadata::of(howdah).await;
    let soon = "instances where purge_time < now() + interval '61 minutes'";
    assert_eq!(metadata.count(soon).await, 1);
    metadata
        .execute("update instances set purge_time = now()")
        .await;
    eventually("it is purged", async || {
        metadata.count("instances").await == 0
    })
    .await;
    assert_eq!(left(howdah), (0, 0));
}

/// Whoever locks several operations of an instance does so in one order: neither the
/// deletion nor the purge that takes its place is a victim of a deadlock.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_beside_the_end_of_a_deletion_is_no_deadlock() {
    let mut howdah = Howdah::new(Options::external().await);
    howdah
        .start("instance.delete.stop.before_commit=1*sleep(4000)")
        .await;
    create(&howdah, "orders").await;
    let metadata = Metadata::of(&howdah).await;
    let request = DeleteInstanceRequest {
        name: instance_name("orders"),
        ..DeleteInstanceRequest::default()
    };
    let accepted = howdah.instances().await.delete_instance(request).await;
    let deletion = accepted.unwrap().into_inner();
    let begun = "operation_stages where name = 'stop' and state = 'RUNNING'";
    eventually("it has begun", async || metadata.count(begun).await == 1).await;
    // Operations on its databases that have failed and wait for another try.
    let children = "insert into operations (id, project, kind, plan_version, verb, target,
            target_uid, parent_uid, principal, parameters, state, run_time, failures,
            required_host, cancellable)
        select gen_random_uuid(), o.project, 'database.create', 1, 'create', 'x',
            gen_random_uuid(), o.target_uid, o.principal, 'null', 'RUNNING', 'infinity', 1,
            o.required_host, true
        from operations o, generate_series(1, 30) where o.kind = 'instance.delete'";
    metadata.execute(children).await;
    let holder = Metadata::of(&howdah).await;
    let first = "begin; select id from operations where parent_uid is not null
        order by id limit 1 for update";
    holder.execute(first).await;
    let purge = DeleteInstanceRequest {
        name: instance_name("orders"),
        force: true,
        purge: true,
        ..DeleteInstanceRequest::default()
    };
    let mut instances = howdah.instances().await;
    let purging = tokio::spawn(async move { instances.delete_instance(purge).await });
    // The purge, and then the worker at its commit.
    let waiting = "pg_stat_activity where datname = current_database()
        and wait_event_type = 'Lock'";
    eventually("both wait", async || metadata.count(waiting).await >= 2).await;
    holder.execute("commit").await;
    let purged = howdah.wait(purging.await.unwrap().unwrap().get_ref()).await;
    assert!(is_success(&purged));
    assert!(howdah.operation(&deletion.name).await.done);
    let deadlocks = labelled(&howdah, "db_client_operation_duration", "40P01").await;
    assert_eq!(deadlocks, None);
}
