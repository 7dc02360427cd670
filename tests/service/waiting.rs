//! Steps that wait for something outside.

use std::{
    fs,
    time::{Duration, Instant},
};

use howdah::pb::{
    google::longrunning::CancelOperationRequest,
    v1::{
        Database, GetInstanceRequest, Instance, OperationMetadata, StartInstanceRequest,
        StopInstanceRequest, database, instance::State, operation_metadata::stage,
    },
};
use prost::Message as _;

use super::{
    fairness::{freeze, processes, thaw, with_a_statement_under_way},
    rig::{Metadata, failure, serve, superuser},
};
use crate::support::howdah::{
    Howdah, Options, create_database, eventually, instance_name, signal, succeeded,
};

async fn stages(howdah: &Howdah, name: &str) -> Vec<howdah::pb::v1::operation_metadata::Stage> {
    let operation = howdah.operation(name).await;
    let metadata = operation.metadata.unwrap();
    OperationMetadata::decode(metadata.value.as_slice())
        .unwrap()
        .stages
}

/// The only worker is free while a frozen server is waited for, and a process that was
/// killed meanwhile goes on with the wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_waits_holds_no_worker() {
    let options = Options::external()
        .await
        .with("HOWDAH_OPERATIONS_WORKERS", "1");
    let mut howdah = Howdah::serve(options).await;
    howdah.instance("orders").await;
    let frozen = freeze(&howdah);
    let request = StopInstanceRequest {
        name: instance_name("orders"),
        ..StopInstanceRequest::default()
    };
    let accepted = howdah.instances().await.stop_instance(request).await;
    let stop = accepted.unwrap().into_inner();
    eventually("it says what it waits for", async || {
        stages(&howdah, &stop.name).await[0].waits_for == "the server to stop"
    })
    .await;
    let waits = &stages(&howdah, &stop.name).await[0];
    assert_eq!(waits.state(), stage::State::Running);
    assert_eq!(waits.progress_percent, 50);
    howdah.instance("other").await;
    assert!(!howdah.operation(&stop.name).await.done);

    howdah.kill().await;
    howdah.start("").await;
    let metadata = Metadata::of(&howdah).await;
    let waiting = "operations where waiting_since < now() - interval '10 seconds'
        and end_time is null and failures = 0";
    eventually("it is looked at again and again", async || {
        metadata.count(waiting).await == 1
    })
    .await;
    thaw(&frozen);
    let stopped: Instance = succeeded(&howdah.wait(&stop).await);
    assert_eq!(stopped.state(), State::Stopped);
    assert_eq!(stages(&howdah, &stop.name).await[0].waits_for, "");
}

async fn waiting(metadata: &Metadata) {
    eventually("it waits", async || {
        let waiting = "operations where waiting_since is not null and end_time is null";
        metadata.count(waiting).await == 1
    })
    .await;
}

/// A statement that gets no answer holds a stop up for a minute, and a server that is
/// frozen for another one. Who starts it waits for an hour. None of that is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_waited_for_within_limits() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let _holder = with_a_statement_under_way(&howdah).await;
    let frozen = freeze(&howdah);
    let metadata = Metadata::of(&howdah).await;
    let stop = StopInstanceRequest {
        name: instance_name("orders"),
        ..StopInstanceRequest::default()
    };
    let accepted = howdah.instances().await.stop_instance(stop.clone()).await;
    let later = "update operations set create_time = create_time - interval '1 minute'
        where kind = 'instance.stop'";
    metadata.execute(later).await;
    waiting(&metadata).await;
    let later = "update operations set waiting_since = now() - interval '1 minute'
        where kind = 'instance.stop'";
    metadata.execute(later).await;
    let failed = howdah.wait(accepted.unwrap().get_ref()).await;
    assert_eq!(failure(&failed).1, "SERVER_NOT_STOPPED");
    let tried_again = "operations where kind = 'instance.stop' and failures > 0";
    assert_eq!(metadata.count(tried_again).await, 0);

    let start = StartInstanceRequest {
        name: instance_name("orders"),
        ..StartInstanceRequest::default()
    };
    let accepted = howdah.instances().await.start_instance(start).await;
    let start = accepted.unwrap().into_inner();
    waiting(&metadata).await;
    let waits_for = &stages(&howdah, &start.name).await[0].waits_for;
    assert_eq!(waits_for, "the server to take connections");
    // Longer than all tries of a step together.
    let wait = "update operations set waiting_since = now() - interval '50 minutes'
        where kind = 'instance.start'";
    metadata.execute(wait).await;
    eventually("it is looked at again", async || {
        let looked = "operations where kind = 'instance.start' and failures = 0 and token > 2
            and end_time is null";
        metadata.count(looked).await == 1
    })
    .await;
    metadata.execute(&wait.replace("50", "61")).await;
    let failed = howdah.wait(&start).await;
    assert_eq!(failure(&failed).1, "SERVER_UNAVAILABLE");
    let tried_again = "operations where kind = 'instance.start' and failures > 0";
    assert_eq!(metadata.count(tried_again).await, 0);

    // The postmaster last: it ends the others.
    thaw(&frozen);
    // The wish to have it run outlives the start that was given up.
    let running = "instances i where state = 'READY' and not exists
        (select from operations o where o.target_uid = i.uid and o.end_time is null)";
    eventually("it runs", async || metadata.count(running).await == 1).await;
    let accepted = howdah.instances().await.stop_instance(stop).await;
    let stopped: Instance = succeeded(&howdah.wait(accepted.unwrap().get_ref()).await);
    assert_eq!(stopped.state(), State::Stopped);
}

/// A frozen server ends no statement: the worker is free within a minute, and the step is
/// tried again.
pub(crate) async fn a_statement_on_a_frozen_server_is_given_up() {
    let mut howdah = Howdah::new(Options::external().await);
    let pause = "database.create.role.in_transaction=1*sleep(3000)->off";
    howdah.start(pause).await;
    howdah.instance("orders").await;
    let server = superuser(&howdah, "orders", "postgres").await;
    let request = create_database("orders", "shop");
    let accepted = howdah.databases().await.create_database(request).await;
    eventually("it is between two statements", async || {
        let idle = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
        server.query_one(idle, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    let frozen = freeze(&howdah);
    let begun = Instant::now();
    let metadata = Metadata::of(&howdah).await;
    let given_up = "operations where failures = 1 and worker is null and end_time is null";
    while metadata.count(given_up).await == 0 {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "its worker is held"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    thaw(&frozen);
    let done: Database = succeeded(&howdah.wait(accepted.unwrap().get_ref()).await);
    assert_eq!(done.state(), database::State::Ready);
}

/// `Available` is not TRUE while a server is frozen.
pub(crate) async fn a_frozen_server_is_not_available() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;
    let status = async |status: &str| {
        let told = format!(
            r#"instances where conditions @> '[{{"type": "Available", "status": "{status}"}}]'"#
        );
        let begun = Instant::now();
        while metadata.count(&told).await == 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "not {status}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    status("TRUE").await;
    let frozen = freeze(&howdah);
    status("UNKNOWN").await;
    thaw(&frozen);
    status("TRUE").await;
}

/// The patience of a stop begins when nothing else works on the server any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_has_its_patience_from_its_turn_on() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;
    let request = GetInstanceRequest {
        name: instance_name("orders"),
    };
    let found = howdah.instances().await.get_instance(request).await;
    let uid = found.unwrap().into_inner().servers[0].uid.clone();
    let path = howdah.data_dir().join("local/locks").join(uid);
    let lock = fs::File::open(path).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let request = StopInstanceRequest {
        name: instance_name("orders"),
        ..StopInstanceRequest::default()
    };
    let stop = howdah.instances().await.stop_instance(request).await;
    let stop = stop.unwrap().into_inner();
    let turn = "operations where waiting_since is not null and pursued_since is null";
    eventually("it waits for its turn", async || {
        metadata.count(turn).await == 1
    })
    .await;
    metadata
        .execute(
            "update operations set waiting_since = now() - interval '5 minutes'
             where end_time is null",
        )
        .await;
    let frozen = freeze(&howdah);
    drop(lock);
    let pursued = "operations where pursued_since is not null";
    eventually("it is pursued", async || metadata.count(pursued).await == 1).await;
    thaw(&frozen);
    let stopped: Instance = succeeded(&howdah.wait(&stop).await);
    assert_eq!(stopped.state(), State::Stopped);
}

/// However much waits for frozen servers, others are worked on.
pub(crate) async fn frozen_servers_leave_workers_for_others() {
    others_are_worked_on(false).await;
}

/// So they are where all of that is being taken back.
pub(crate) async fn frozen_servers_leave_workers_beside_cancelled_work() {
    others_are_worked_on(true).await;
}

async fn others_are_worked_on(cancelled: bool) {
    const EACH: usize = 20;
    let howdah = serve().await;
    howdah.instance("well").await;
    for id in ["one", "two"] {
        howdah.instance(id).await;
    }
    let frozen = freeze_but(&howdah, "well").await;
    assert!(frozen.len() > 4);
    for id in ["one", "two"] {
        for number in 0..EACH {
            let request = create_database(id, &format!("d{number}"));
            let accepted = howdah.databases().await.create_database(request).await;
            if cancelled {
                let name = accepted.unwrap().into_inner().name;
                let request = CancelOperationRequest { name };
                howdah
                    .operations()
                    .await
                    .cancel_operation(request)
                    .await
                    .unwrap();
            }
        }
    }
    for number in 0..5 {
        let begun = Instant::now();
        howdah.database("well", &format!("d{number}")).await;
        // Each look at a frozen server takes a worker for 10 s, two at a time at most.
        assert!(
            begun.elapsed() < Duration::from_secs(25),
            "{:?}",
            begun.elapsed()
        );
    }
    thaw(&frozen);
    let metadata = Metadata::of(&howdah).await;
    let begun = Instant::now();
    while metadata.count("operations where end_time is null").await > 0 {
        assert!(
            begun.elapsed() < Duration::from_secs(90),
            "they do not go on"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let made = metadata.count("databases where state = 'READY'").await;
    let expected = if cancelled { 5 } else { 2 * EACH + 5 };
    assert_eq!(usize::try_from(made).unwrap(), expected);
}

/// Freezes all servers but that of one instance.
async fn freeze_but(howdah: &Howdah, kept: &str) -> Vec<u32> {
    let request = GetInstanceRequest {
        name: instance_name(kept),
    };
    let found = howdah.instances().await.get_instance(request).await;
    let uid = found.unwrap().into_inner().servers[0].uid.clone();
    let is_kept = |pid: &u32| {
        let place = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        place.to_string_lossy().contains(&uid)
    };
    let frozen: Vec<u32> = processes(howdah)
        .into_iter()
        .filter(|pid| !is_kept(pid))
        .collect();
    for pid in &frozen {
        signal(*pid, "STOP");
    }
    frozen
}

/// What a failed stop leaves is looked at until the server has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_after_its_stop_was_given_up_is_stopped() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let frozen = freeze(&howdah);
    let metadata = Metadata::of(&howdah).await;
    let stop = StopInstanceRequest {
        name: instance_name("orders"),
        ..StopInstanceRequest::default()
    };
    let accepted = howdah.instances().await.stop_instance(stop).await;
    waiting(&metadata).await;
    let later = "update operations set waiting_since = now() - interval '1 minute'
        where kind = 'instance.stop'";
    metadata.execute(later).await;
    let failed = howdah.wait(accepted.unwrap().get_ref()).await;
    assert_eq!(failure(&failed).1, "SERVER_NOT_STOPPED");
    let unknown = "instances where state = 'FAILED' and conditions @>
        '[{\"type\": \"Available\", \"status\": \"UNKNOWN\", \"reason\": \"SERVER_NOT_STOPPED\"}]'";
    assert_eq!(metadata.count(unknown).await, 1);

    // The postmaster last: it ends the others.
    thaw(&frozen);
    let stopped = "instances where state = 'STOPPED' and conditions @>
        '[{\"type\": \"Available\", \"status\": \"FALSE\", \"reason\": \"STOPPED\"}]'";
    eventually("it is stopped", async || metadata.count(stopped).await == 1).await;
    assert!(howdah.servers().is_empty());
}
