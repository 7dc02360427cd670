//! Servers outlive Howdah, are adopted by the next one, and are started again when
//! they die.

use std::fs;

use howdah::pb::{
    google::longrunning::{ListOperationsRequest, Operation},
    v1::{
        Condition, Connection, GetConnectionRequest, GetInstanceRequest, Instance,
        OperationMetadata, RestartInstanceRequest, StartInstanceRequest, StopInstanceRequest,
        condition, instance::State,
    },
};
use prost::Message as _;

use crate::{
    service::rig::{Metadata, superuser},
    soak::crash::world::{connect, is_success},
    support::howdah::{
        Howdah, Options, PROJECT, create_database, eventually, instance_name, signal, succeeded,
    },
};

async fn get(howdah: &Howdah, id: &str) -> Instance {
    let request = GetInstanceRequest {
        name: instance_name(id),
    };
    let found = howdah.instances().await.get_instance(request).await;
    found.unwrap().into_inner()
}

/// Verbs of all operations, oldest first.
async fn verbs(howdah: &Howdah) -> Vec<String> {
    let request = ListOperationsRequest {
        name: PROJECT.into(),
        ..ListOperationsRequest::default()
    };
    let listed = howdah.operations().await.list_operations(request).await;
    let listed = listed.unwrap().into_inner().operations;
    let verb = |operation: &Operation| {
        let metadata = operation.metadata.as_ref().unwrap();
        let metadata = OperationMetadata::decode(metadata.value.as_slice()).unwrap();
        metadata.verb
    };
    listed.iter().rev().map(verb).collect()
}

async fn accept_stop(howdah: &Howdah, id: &str) -> Operation {
    let request = StopInstanceRequest {
        name: instance_name(id),
        ..StopInstanceRequest::default()
    };
    let accepted = howdah.instances().await.stop_instance(request).await;
    accepted.unwrap().into_inner()
}

async fn stop(howdah: &Howdah, id: &str) {
    let done = howdah.wait(&accept_stop(howdah, id).await).await;
    assert_eq!(succeeded::<Instance>(&done).state(), State::Stopped);
}

fn restarted(instance: &Instance) -> Option<&Condition> {
    let is_it = |c: &&Condition| c.r#type == "ServerRestarted";
    instance.conditions.iter().find(is_it)
}

/// Waits until the instance's server has been started again.
async fn recovered(howdah: &Howdah, id: &str) {
    eventually("the server is started again", async || {
        let instance = get(howdah, id).await;
        let told = restarted(&instance).is_some_and(|c| c.status() == condition::Status::True);
        told && instance.state() == State::Ready && !instance.reconciling
    })
    .await;
}

async fn answers(connection: &Connection) {
    let client = connect(connection).await;
    client.batch_execute("select 1").await.unwrap();
}

/// Kills the servers, and waits until all of their processes are gone.
async fn kill_servers(howdah: &Howdah) {
    for pid in howdah.servers() {
        signal(pid, "KILL");
    }
    let below = howdah.data_dir().join("local/servers");
    let works_there = |entry: fs::DirEntry| {
        let place = fs::read_link(entry.path().join("cwd"));
        place.is_ok_and(|place| place.starts_with(&below))
    };
    eventually("no process of a server is left", async || {
        !fs::read_dir("/proc").unwrap().flatten().any(works_there)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_adopted_and_watched() {
    let mut howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    let connection = howdah.database("orders", "shop").await;
    let pids = howdah.servers();
    assert_eq!(pids.len(), 1);

    howdah.kill().await;
    answers(&connection).await;
    howdah.start("").await;
    assert_eq!(howdah.servers(), pids, "the same process");
    assert!(restarted(&get(&howdah, "orders").await).is_none());

    // It is watched: its death is noticed, and visible.
    signal(pids[0], "KILL");
    recovered(&howdah, "orders").await;
    assert_ne!(howdah.servers(), pids);
    answers(&connection).await;
    assert_eq!(verbs(&howdah).await, ["create", "create", "recover"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_is_watched_at_once() {
    let howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    let pids = howdah.servers();
    signal(pids[0], "KILL");
    recovered(&howdah, "orders").await;
    // Again: it is watched after a recovery too.
    signal(howdah.servers()[0], "KILL");
    eventually("a second recovery", async || {
        verbs(&howdah).await == ["create", "recover", "recover"]
            && get(&howdah, "orders").await.state() == State::Ready
    })
    .await;
    assert_eq!(howdah.servers().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_servers_come_back_after_the_machine_did() {
    let mut howdah = Howdah::serve(Options::external().await).await;
    for id in ["orders", "billing", "resting"] {
        howdah.instance(id).await;
    }
    let connection = howdah.database("orders", "shop").await;
    stop(&howdah, "resting").await;
    howdah.kill().await;
    kill_servers(&howdah).await;
    let uid = |instance: &Instance| instance.servers[0].uid.clone();

    howdah.start("").await;
    recovered(&howdah, "orders").await;
    recovered(&howdah, "billing").await;
    answers(&connection).await;
    // A look at all servers has happened since: what was stopped stays so.
    let resting = get(&howdah, "resting").await;
    assert_eq!(resting.state(), State::Stopped);
    assert_eq!(howdah.servers().len(), 2);
    let data = howdah.data_dir().join("local/servers").join(uid(&resting));
    assert!(!data.join("data/postmaster.pid").exists());
    assert!(restarted(&resting).is_none());
    let recoveries = verbs(&howdah).await;
    let recoveries = recoveries.iter().filter(|verb| *verb == "recover");
    assert_eq!(recoveries.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_stays_stopped() {
    let mut howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    howdah.instance("other").await;
    stop(&howdah, "orders").await;
    // The other's recovery shows that the supervisor has looked: here, and in the
    // next process.
    signal(howdah.servers()[0], "KILL");
    recovered(&howdah, "other").await;
    assert_eq!(get(&howdah, "orders").await.state(), State::Stopped);
    howdah.kill().await;
    kill_servers(&howdah).await;
    howdah.start("").await;
    eventually("the other runs again", async || howdah.servers().len() == 1).await;
    eventually("nothing is under way", async || {
        !get(&howdah, "other").await.reconciling
    })
    .await;
    assert_eq!(get(&howdah, "orders").await.state(), State::Stopped);
    assert_eq!(howdah.servers().len(), 1);
}

/// An operation on a database waits for the server; that must not keep the server from
/// being started.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_recovers_below_an_unfinished_operation() {
    let mut howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    howdah.stop().await;
    howdah
        .start("database.create.database.before_effect=return")
        .await;
    let request = create_database("orders", "shop");
    // The answer may have been lost with the process.
    let _ = howdah.databases().await.create_database(request).await;
    howdah.ended().await;
    kill_servers(&howdah).await;

    howdah.start("").await;
    recovered(&howdah, "orders").await;
    let name = format!("{}/databases/shop", instance_name("orders"));
    eventually("the database is there", async || {
        let request = GetConnectionRequest { name: name.clone() };
        let found = howdah.databases().await.get_connection(request).await;
        match found {
            Ok(connection) => {
                answers(connection.get_ref()).await;
                true
            }
            Err(_) => false,
        }
    })
    .await;
}

/// What cannot end without the server does not keep a stop waiting, and goes on when the
/// server runs again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_what_needs_the_server() {
    let mut howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    howdah.stop().await;
    let slow = "database.create.role.after_sql=1*sleep(2000)";
    howdah.start(slow).await;
    let metadata = Metadata::of(&howdah).await;
    let request = create_database("orders", "shop");
    let create = howdah.databases().await.create_database(request).await;
    let create = create.unwrap().into_inner();
    eventually("the creation is at work", async || {
        metadata
            .count("operation_stages where state = 'RUNNING'")
            .await
            > 0
    })
    .await;
    let stopping = accept_stop(&howdah, "orders").await;
    kill_servers(&howdah).await;
    let stopped = howdah.wait(&stopping).await;
    assert_eq!(succeeded::<Instance>(&stopped).state(), State::Stopped);
    assert!(!howdah.operation(&create.name).await.done);

    let request = StartInstanceRequest {
        name: instance_name("orders"),
        ..StartInstanceRequest::default()
    };
    let accepted = howdah.instances().await.start_instance(request).await;
    assert!(is_success(&howdah.wait(accepted.unwrap().get_ref()).await));
    assert!(is_success(&howdah.wait(&create).await));
    assert_eq!(metadata.count("databases where state = 'READY'").await, 1);
    answers(&howdah.connection("orders", "shop").await).await;
}

/// What a user's session holds up is helped by a restart, which must not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_overtakes_what_waits_to_be_tried_again() {
    let howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;
    let holder = superuser(&howdah, "orders", "postgres").await;
    let lock = "begin; lock table pg_shdescription in exclusive mode";
    holder.batch_execute(lock).await.unwrap();
    let request = create_database("orders", "shop");
    let create = howdah.databases().await.create_database(request).await;
    let create = create.unwrap().into_inner();
    eventually("the creation has failed once", async || {
        metadata.count("operations where failures > 0").await > 0
    })
    .await;
    let request = RestartInstanceRequest {
        name: instance_name("orders"),
        ..RestartInstanceRequest::default()
    };
    let accepted = howdah.instances().await.restart_instance(request).await;
    let restarted = howdah.wait(accepted.unwrap().get_ref()).await;
    assert_eq!(succeeded::<Instance>(&restarted).state(), State::Ready);
    // The restart has ended the session that held the lock.
    assert!(is_success(&howdah.wait(&create).await));
    assert_eq!(verbs(&howdah).await, ["create", "create", "restart"]);
}

/// A server that does not come up is not given up: it was not its user who stopped it.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_fails_is_tried_again() {
    let howdah = Howdah::serve(Options::external().await).await;
    let instance = howdah.instance("orders").await;
    let connection = howdah.database("orders", "shop").await;
    let home = howdah.data_dir().join("local/servers");
    let data = home.join(&instance.servers[0].uid).join("data");
    // As in the middle of an upgrade of a package.
    let settings = data.join("postgresql.auto.conf");
    let right = fs::read_to_string(&settings).unwrap();
    fs::write(
        &settings,
        format!("{right}shared_preload_libraries = 'not_there'\n"),
    )
    .unwrap();
    kill_servers(&howdah).await;
    eventually("the recovery has failed", async || {
        let now = get(&howdah, "orders").await;
        let told = now.conditions.iter().any(|condition| {
            condition.r#type == "Available"
                && condition.status() == condition::Status::False
                && condition.reason != "SERVER_ENDED"
        });
        now.state() == State::Failed && told
    })
    .await;
    fs::write(&settings, right).unwrap();
    eventually("the server is up", async || {
        let now = get(&howdah, "orders").await;
        now.state() == State::Ready && !now.reconciling
    })
    .await;
    answers(&connection).await;
}

/// Each end of a server is answered by a longer pause, which is shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_again_and_again_is_started_after_a_pause() {
    let howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    for recoveries in 1..=3 {
        kill_servers(&howdah).await;
        eventually("it is started again", async || {
            let recovered = verbs(&howdah).await.len() == 1 + recoveries;
            let now = get(&howdah, "orders").await;
            recovered && now.state() == State::Ready && !now.reconciling
        })
        .await;
    }
    assert!(howdah.log().contains("does not stay up"));
}
