//! One database owner, one instance or one hung server does not block the others.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use howdah::{
    pb::{
        google::longrunning::Operation,
        v1::{
            DeleteInstanceRequest, Instance, StartInstanceRequest, StopInstanceRequest,
            instance::State,
        },
    },
    pg,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;
use tonic::Code;

use super::rig::{Metadata, failure, refused, serve, superuser};
use crate::{
    soak::crash::world::{connect_to, is_success},
    support::howdah::{
        Howdah, Options, create_database, eventually, instance_name, reason, succeeded,
    },
};

/// Half of the workers are left to others, whatever one instance is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn operations_of_one_instance_leave_workers_to_others() {
    let options = Options::external()
        .await
        .with("HOWDAH_OPERATIONS_WORKERS", "2");
    let howdah = Howdah::serve(options).await;
    howdah.instance("slow").await;
    howdah.instance("other").await;
    let holder = superuser(&howdah, "slow", "postgres").await;
    // Each new role gets a comment.
    let lock = "begin; lock table pg_shdescription in exclusive mode";
    holder.batch_execute(lock).await.unwrap();
    let mut databases = howdah.databases().await;
    let mut slow = Vec::new();
    for id in ["one", "two", "three"] {
        let accepted = databases.create_database(create_database("slow", id)).await;
        slow.push(accepted.unwrap().into_inner());
    }
    howdah.database("other", "shop").await;
    for operation in &slow {
        let now = howdah.operation(&operation.name).await;
        assert!(!now.done, "{}: nothing held it", operation.name);
    }
    holder.batch_execute("rollback").await.unwrap();
    for operation in &slow {
        assert!(is_success(&howdah.wait(operation).await));
    }
}

/// An open transaction in them would block CREATE DATABASE and DROP DATABASE.
#[tokio::test(flavor = "multi_thread")]
async fn owners_stay_out_of_the_databases_that_all_share() {
    let mut howdah = serve().await;
    howdah.instance("orders").await;
    let connection = howdah.database("orders", "shop").await;
    let closed = async || {
        for database in ["postgres", "template1"] {
            let refused = connect_to(&connection, database).await.err();
            let code = refused.as_ref().and_then(pg::Error::sqlstate);
            if code != Some("42501") {
                return false;
            }
        }
        true
    };
    assert!(closed().await);
    connect_to(&connection, "shop").await.unwrap();

    // A server of a former release.
    let admin = superuser(&howdah, "orders", "postgres").await;
    let open = "grant connect, temporary on database postgres, template1 to public";
    admin.batch_execute(open).await.unwrap();
    assert!(!closed().await);
    howdah.stop().await;
    howdah.start("").await;
    eventually("they are closed again", closed).await;
}

fn purge() -> DeleteInstanceRequest {
    DeleteInstanceRequest {
        name: instance_name("orders"),
        force: true,
        purge: true,
        ..DeleteInstanceRequest::default()
    }
}

/// Processes of the servers of users, also those whose data is in the trash.
pub(super) fn processes(howdah: &Howdah) -> Vec<u32> {
    let below = howdah.data_dir().join("local");
    let works_there = |pid: &u32| {
        let place = fs::read_link(format!("/proc/{pid}/cwd"));
        place.is_ok_and(|place| place.starts_with(&below))
    };
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(works_there).collect()
}

/// Stops all processes of the servers of users (SIGSTOP), and returns their ids. Some end
/// by themselves meanwhile.
pub(super) fn freeze(howdah: &Howdah) -> Vec<u32> {
    let is_frozen = |pid: &u32| {
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        kill_process(pid, Signal::STOP).is_ok()
    };
    processes(howdah).into_iter().filter(is_frozen).collect()
}

/// Lets frozen processes go on, children first; some have ended by themselves.
pub(super) fn thaw(frozen: &[u32]) {
    for pid in frozen.iter().rev() {
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        let _ = kill_process(pid, Signal::CONT);
    }
}

/// A server that does not react any more is deleted all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_can_be_purged() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    freeze(&howdah);
    let accepted = howdah.instances().await.delete_instance(purge()).await;
    let metadata = Metadata::of(&howdah).await;
    let begun = "operations where kind = 'instance.remove' and state = 'RUNNING'";
    eventually("it is being removed", async || {
        metadata.count(begun).await == 1
    })
    .await;
    // The same again does not begin anew.
    let again = howdah.instances().await.delete_instance(purge()).await;
    assert_eq!(reason(&again.unwrap_err()), "RESOURCE_BUSY");
    let done = howdah.wait(accepted.unwrap().get_ref()).await;
    succeeded::<()>(&done);
    assert_eq!(processes(&howdah), Vec::<u32>::new());
    assert_eq!(howdah.local("servers"), Vec::<String>::new());
    // The id is free, and the host is well.
    howdah.instance("orders").await;
}

/// Has a database created, whose statement waits for the lock of a session.
pub(super) async fn with_a_statement_under_way(howdah: &Howdah) -> (pg::Client, Operation) {
    let holder = superuser(howdah, "orders", "postgres").await;
    let lock = "begin; lock table pg_shdescription in exclusive mode";
    holder.batch_execute(lock).await.unwrap();
    let request = create_database("orders", "shop");
    let create = howdah.databases().await.create_database(request).await;
    let create = create.unwrap().into_inner();
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
    let admin = superuser(howdah, "orders", "postgres").await;
    eventually("a statement is under way", async || {
        let row = admin.query_one(waits, &[]).await.unwrap();
        row.get::<_, i64>(0) > 0
    })
    .await;
    (holder, create)
}

/// Also with a statement under way, whose answer never comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_froze_in_a_statement_can_be_purged() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let (_holder, create) = with_a_statement_under_way(&howdah).await;
    freeze(&howdah);
    let accepted = howdah.instances().await.delete_instance(purge()).await;
    let done = howdah.wait(accepted.unwrap().get_ref()).await;
    succeeded::<()>(&done);
    let (_, why) = failure(&howdah.operation(&create.name).await);
    assert_eq!(why, "INSTANCE_DELETED");
    assert_eq!(processes(&howdah), Vec::<u32>::new());
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
}

/// Calls that hold the instance's row together, without a gap, let one through that wants
/// it alone: it would be refused after 5 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_accepted_among_calls_that_never_pause() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    let calls = AtomicUsize::new(0);
    let crowd = (0..50).map(|_| async {
        let mut databases = howdah.databases().await;
        loop {
            let taken = create_database("orders", "shop");
            let _ = databases.create_database(taken).await;
            calls.fetch_add(1, Ordering::Relaxed);
        }
    });
    let stop = async {
        eventually("the crowd is there", async || {
            calls.load(Ordering::Relaxed) > 200
        })
        .await;
        let request = StopInstanceRequest {
            name: instance_name("orders"),
            ..StopInstanceRequest::default()
        };
        let begun = std::time::Instant::now();
        let accepted = howdah.instances().await.stop_instance(request).await;
        println!("accepted after {:?}", begun.elapsed());
        accepted.unwrap().into_inner()
    };
    let stopping = tokio::select! {
        stopping = stop => stopping,
        _ = futures::future::join_all(crowd) => unreachable!("the crowd does not end"),
    };
    assert!(is_success(&howdah.wait(&stopping).await));
}

/// An operation on an instance is not shut out by a crowd on its databases: it waits for
/// those that work, and no new ones come before it.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_stopped_below_a_crowd() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let crowd = (0..6).map(|number| crowd(&howdah, number));
    let crowd = futures::future::join_all(crowd);
    let stop = async {
        let metadata = Metadata::of(&howdah).await;
        eventually("the crowd is at work", async || {
            metadata.count("databases").await >= 6
        })
        .await;
        let request = StopInstanceRequest {
            name: instance_name("orders"),
            ..StopInstanceRequest::default()
        };
        let accepted = howdah.instances().await.stop_instance(request).await;
        let stopped = howdah.wait(accepted.unwrap().get_ref()).await;
        succeeded::<Instance>(&stopped).state()
    };
    let (made, state) = tokio::join!(crowd, stop);
    assert_eq!(state, State::Stopped);
    assert!(made.iter().sum::<usize>() > 0);
}

/// Creates databases, one after the other, until the instance is not READY; how many.
async fn crowd(howdah: &Howdah, number: usize) -> usize {
    let mut databases = howdah.databases().await;
    for made in 0.. {
        let id = format!("shop-{number}-{made}");
        let accepted = databases
            .create_database(create_database("orders", &id))
            .await;
        match accepted {
            Ok(operation) => assert!(is_success(&howdah.wait(operation.get_ref()).await)),
            Err(status) => {
                let why = reason(&status);
                assert!(
                    ["INSTANCE_NOT_READY", "RESOURCE_BUSY"].contains(&why.as_str()),
                    "{why}"
                );
                return made;
            }
        }
    }
    unreachable!("there is no end of numbers")
}

/// What waits for its turn does not keep the instance from being deleted by force.
#[tokio::test(flavor = "multi_thread")]
async fn force_overtakes_what_has_not_begun() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let client = superuser(&howdah, "orders", "postgres").await;
    let hold = "begin; lock table pg_shdescription in exclusive mode";
    client.batch_execute(hold).await.unwrap();
    let mut databases = howdah.databases().await;
    let create = databases
        .create_database(create_database("orders", "shop"))
        .await;
    let create = create.unwrap().into_inner();
    let request = StopInstanceRequest {
        name: instance_name("orders"),
        ..StopInstanceRequest::default()
    };
    let stop = howdah.instances().await.stop_instance(request).await;
    let stop = stop.unwrap().into_inner();
    let late = databases
        .create_database(create_database("orders", "late"))
        .await;
    refused(late, Code::FailedPrecondition, "INSTANCE_NOT_READY");
    let keep = DeleteInstanceRequest {
        purge: false,
        ..purge()
    };
    let deleted = howdah.instances().await.delete_instance(keep).await;
    assert!(!howdah.operation(&create.name).await.done);
    client.batch_execute("rollback").await.unwrap();
    assert!(is_success(&howdah.wait(&create).await));
    let deleted = howdah.wait(deleted.unwrap().get_ref()).await;
    assert_eq!(succeeded::<Instance>(&deleted).state(), State::Deleted);
    let (code, why) = failure(&howdah.operation(&stop.name).await);
    assert_eq!(
        (code, why.as_str()),
        (Code::FailedPrecondition, "INSTANCE_DELETED")
    );
    assert!(howdah.servers().is_empty());
}

/// Calls that look at an instance, and steps that change it, lock in one order.
#[tokio::test(flavor = "multi_thread")]
async fn calls_and_steps_do_not_lock_each_other_out() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let done = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..6 {
        let mut databases = howdah.databases().await;
        let done = Arc::clone(&done);
        callers.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let mut request = create_database("orders", "shop");
                request.validate_only = true;
                // Refused while the instance is on its way.
                let _ = databases.create_database(request).await;
            }
        });
    }
    for _ in 0..3 {
        for state in [State::Stopped, State::Ready] {
            let name = instance_name("orders");
            let mut instances = howdah.instances().await;
            let accepted = match state {
                State::Stopped => {
                    let request = StopInstanceRequest {
                        name,
                        ..Default::default()
                    };
                    instances.stop_instance(request).await
                }
                _ => {
                    let request = StartInstanceRequest {
                        name,
                        ..Default::default()
                    };
                    instances.start_instance(request).await
                }
            };
            let done: Instance = succeeded(&howdah.wait(accepted.unwrap().get_ref()).await);
            assert_eq!(done.state(), state);
        }
    }
    done.store(true, Ordering::Relaxed);
    callers.join_all().await;
    let log = howdah.log();
    assert!(!log.contains("40P01") && !log.contains("deadlock"), "{log}");
    let metadata = Metadata::of(&howdah).await;
    let deadlocks = "pg_stat_database where datname = current_database() and deadlocks > 0";
    assert_eq!(metadata.count(deadlocks).await, 0);
}
