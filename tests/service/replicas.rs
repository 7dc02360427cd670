//! Several processes on one metadata database: they share the work, take it over from
//! each other, and keep off what is not theirs.

use std::fs::File;

use howdah::{
    pb::{
        google::longrunning::{CancelOperationRequest, Operation, WaitOperationRequest},
        v1::{
            DeleteInstanceRequest, GetInstanceRequest, Instance, StartInstanceRequest,
            StopInstanceRequest, SubscribeRequest,
            change_stream_service_client::ChangeStreamServiceClient,
            instance::{LocalProviderConfig, ProviderConfig, State},
        },
    },
    pg,
};

use rustix::fs::{FlockOperation, flock};
use tonic_types::StatusExt as _;

use super::rig::{queries, refused, superuser};
use crate::{
    soak::crash::world::{is_success, metadata},
    support::{
        howdah::{
            Howdah, Options, create_instance, eventually, failed, instance_name, reason, signal,
            succeeded,
        },
        postgres::{PASSWORD, SUPERUSER, Server},
    },
};

/// Shortest that is allowed.
const LEASE: (&str, &str) = ("HOWDAH_OPERATIONS_LEASE", "2s");

/// With the same metadata as another one.
pub(super) fn beside(howdah: &Howdah) -> Options {
    Options {
        database_url: howdah.options.database_url.clone(),
        environment: vec![(LEASE.0.into(), LEASE.1.into())],
    }
}

/// On the same host as another one: it has the same `local.root`.
pub(super) fn on_host_of(howdah: &Howdah) -> Options {
    let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    beside(howdah)
        .with("HOWDAH_LOCAL_ROOT", path(howdah.data_dir().join("local")))
        .with(
            "HOWDAH_LOCAL_RUN_DIRECTORY",
            path(howdah.directory().join("run")),
        )
}

pub(super) async fn options() -> Options {
    Options::external().await.with(LEASE.0, LEASE.1)
}

fn ephemeral() -> Instance {
    Instance {
        ephemeral: true,
        ..Instance::default()
    }
}

async fn create(howdah: &Howdah, id: &str) -> Operation {
    let request = create_instance(id, ephemeral());
    let accepted = howdah.instances().await.create_instance(request).await;
    accepted.unwrap().into_inner()
}

async fn start(howdah: &Howdah, id: &str) -> Operation {
    let request = StartInstanceRequest {
        name: instance_name(id),
        ..StartInstanceRequest::default()
    };
    let accepted = howdah.instances().await.start_instance(request).await;
    accepted.unwrap().into_inner()
}

async fn stop(howdah: &Howdah, id: &str) -> Operation {
    let request = StopInstanceRequest {
        name: instance_name(id),
        ..StopInstanceRequest::default()
    };
    let accepted = howdah.instances().await.stop_instance(request).await;
    accepted.unwrap().into_inner()
}

fn id(operation: &Operation) -> &str {
    operation.name.rsplit('/').next().unwrap()
}

/// How often this process has brought the operation to its end.
fn succeeded_here(howdah: &Howdah, operation: &Operation) -> usize {
    let log = howdah.log();
    let of_it = log.lines().filter(|line| line.contains(id(operation)));
    of_it
        .filter(|line| line.contains("operation succeeded"))
        .count()
}

/// It is told to those who wait a moment before it is written to the log.
async fn succeeded_once(howdah: &Howdah, operation: &Operation) {
    eventually("it is in the log", async || {
        succeeded_here(howdah, operation) > 0
    })
    .await;
    assert_eq!(succeeded_here(howdah, operation), 1);
}

/// Waits until the stage is under way, and its effect, if it has one, there.
async fn stage_runs(metadata: &pg::Client, operation: &Operation, stage: &str) {
    let sql = "select count(*) from operation_stages where operation_id::text = $1
         and name = $2 and state = 'RUNNING'";
    eventually("the stage is under way", async || {
        let found = metadata.query_one(sql, &[&id(operation), &stage]).await;
        found.unwrap().get::<_, i64>(0) == 1
    })
    .await;
}

async fn token(metadata: &pg::Client, operation: &Operation) -> i64 {
    let sql = "select token from operations where id::text = $1";
    let found = metadata.query_one(sql, &[&id(operation)]).await;
    found.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_share_the_work() {
    let one = Howdah::serve(options().await.with("HOWDAH_OPERATIONS_WORKERS", "1")).await;
    let two = Howdah::serve(on_host_of(&one).with("HOWDAH_OPERATIONS_WORKERS", "1")).await;
    // The template that the others are cloned from.
    one.instance("first").await;
    let mut operations = Vec::new();
    for number in 0..8 {
        operations.push(create(&one, &format!("i{number}")).await);
    }
    let mut shares = [0, 0];
    for operation in &operations {
        let done = two.wait(operation).await;
        assert_eq!(succeeded::<Instance>(&done).state(), State::Ready);
        let here = || [&one, &two].map(|howdah| succeeded_here(howdah, operation));
        // It is told a moment before it is written.
        eventually("it is in a log", async || here() != [0, 0]).await;
        let here = here();
        assert_eq!(here[0] + here[1], 1, "done once");
        shares[0] += here[0];
        shares[1] += here[1];
    }
    assert!(shares[0] > 0 && shares[1] > 0, "{shares:?}");
    assert_eq!(one.servers().len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_goes_on_when_one_is_killed() {
    let mut one = Howdah::new(options().await);
    one.start("instance.create.start.before_commit=pause").await;
    let store = metadata(&one.options).await;
    let operation = create(&one, "orders").await;
    stage_runs(&store, &operation, "start").await;
    let two = Howdah::serve(on_host_of(&one)).await;
    one.kill().await;
    let done = two.wait(&operation).await;
    assert_eq!(succeeded::<Instance>(&done).state(), State::Ready);
    succeeded_once(&two, &operation).await;
    assert_eq!(token(&store, &operation).await, 2);
    assert_eq!(one.servers().len(), 1);
}

/// An instance that is stopped, and an operation that has begun to start it and waits
/// for the lock of its server, which the test holds.
async fn start_that_waits(howdah: &Howdah, store: &pg::Client) -> (Operation, File) {
    let server = howdah.instance("orders").await.servers[0].uid.clone();
    let stopping = stop(howdah, "orders").await;
    howdah.wait(&stopping).await;
    let lock = howdah.data_dir().join("local/locks").join(server);
    let lock = File::options().read(true).write(true).open(lock).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let operation = start(howdah, "orders").await;
    stage_runs(store, &operation, "start").await;
    (operation, lock)
}

/// The fence: between the effect and its commit another worker takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_the_newest_token_commits_nothing() {
    // Too long for the lease to be found lost before the commit.
    let options = Options::external().await.with(LEASE.0, "60s");
    let one = Howdah::serve(options).await;
    let store = metadata(&one.options).await;
    let (operation, lock) = start_that_waits(&one, &store).await;
    // What a claim writes.
    let take = "update operations set token = token + 1, worker = gen_random_uuid(),
         lease_until = now() + interval '5s' where id::text = $1";
    store.execute(take, &[&id(&operation)]).await.unwrap();
    drop(lock);
    // At its commit; or before, when it was just about to renew its lease.
    eventually("the worker is refused", async || {
        let log = one.log();
        log.contains("another worker has taken the operation over") || log.contains("lease lost")
    })
    .await;
    let told = one.operation(&operation.name).await;
    assert!(!told.done, "nothing was committed: {told:?}");
    // That other worker gives no sign of life: it is taken over from in turn.
    let done = one.wait(&operation).await;
    assert_eq!(succeeded::<Instance>(&done).state(), State::Ready);
    assert_eq!(token(&store, &operation).await, 3);
    succeeded_once(&one, &operation).await;
}

/// A process that was frozen before an effect does not carry it out when it wakes up
/// after another one has taken over: the world has gone on.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_frozen_does_no_harm() {
    let mut one = Howdah::serve(options().await).await;
    one.instance("orders").await;
    let stopped = stop(&one, "orders").await;
    one.wait(&stopped).await;
    one.stop().await;
    one.start("instance.start.start.before_effect=1*sleep(1500)")
        .await;
    let store = metadata(&one.options).await;
    let starting = start(&one, "orders").await;
    stage_runs(&store, &starting, "start").await;
    signal(one.pid(), "STOP");

    let two = Howdah::serve(on_host_of(&one)).await;
    let done = two.wait(&starting).await;
    succeeded_once(&two, &starting).await;
    assert_eq!(succeeded::<Instance>(&done).state(), State::Ready);
    let stopping = stop(&two, "orders").await;
    two.wait(&stopping).await;
    assert!(one.servers().is_empty());

    signal(one.pid(), "CONT");
    eventually("it gives the operation up", async || {
        let log = one.log();
        log.contains("lease lost") || log.contains("lease expired")
    })
    .await;
    // It works again, also in the slot that the operation had.
    let last = create(&one, "billing").await;
    assert!(is_success(&one.wait(&last).await));
    assert_eq!(one.servers().len(), 1, "the stopped server stays stopped");
    assert_eq!(succeeded_here(&one, &starting), 0);
}

/// What a frozen process holds on a user's server does not keep its successor waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_holds_nothing_on_a_server() {
    let mut one = Howdah::serve(options().await).await;
    one.instance("orders").await;
    one.stop().await;
    one.start("database.create.role.in_transaction=1*sleep(1500)")
        .await;
    let request = crate::support::howdah::create_database("orders", "shop");
    let accepted = one.databases().await.create_database(request).await;
    let creating = accepted.unwrap().into_inner();
    let admin = superuser(&one, "orders", "postgres").await;
    let inside = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
    eventually("the role is half made", async || {
        let row = admin.query_one(inside, &[]).await.unwrap();
        row.get::<_, i64>(0) == 1
    })
    .await;
    signal(one.pid(), "STOP");
    let two = Howdah::serve(on_host_of(&one)).await;
    assert!(is_success(&two.wait(&creating).await));
    assert!(two.log().contains("sessions of a former worker were ended"));
    succeeded_once(&two, &creating).await;
    signal(one.pid(), "CONT");
    eventually("it gives the operation up", async || {
        let log = one.log();
        log.contains("lease lost") || log.contains("lease expired")
    })
    .await;
    two.database("orders", "other").await;
}

/// What talks to the server itself says which host can do it.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_elsewhere_names_the_host() {
    let one = Howdah::serve(options().await).await;
    let two = Howdah::serve(beside(&one)).await;
    let instance = one.instance("orders").await;
    let request = SubscribeRequest {
        instance: instance_name("orders"),
        database: "postgres".to_owned(),
        tables: vec!["elsewhere.items".to_owned()],
        ..SubscribeRequest::default()
    };
    let here = ChangeStreamServiceClient::new(one.channel().await)
        .subscribe(request.clone())
        .await;
    let here = reason(&here.unwrap_err());
    assert_eq!(here, "TABLE_NOT_FOUND", "its server was asked");
    let refusal = ChangeStreamServiceClient::new(two.channel().await)
        .subscribe(request)
        .await
        .unwrap_err();
    let details = refusal.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(refusal.code(), tonic::Code::FailedPrecondition);
    assert_eq!(info.reason, "HOST_ELSEWHERE");
    assert_eq!(info.metadata["host"], instance.servers[0].host);
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    assert_eq!(info.metadata["host_name"], name);
    assert!(refusal.message().contains(name.as_ref()), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_at_the_other_is_told() {
    let one = Howdah::serve(options().await).await;
    let two = Howdah::serve(beside(&one)).await;
    one.instance("orders").await;
    let store = metadata(&one.options).await;
    let age = "select extract(epoch from clock_timestamp() - end_time)::float8
         from operations where id::text = $1";
    let mut quickest = f64::MAX;
    for turn in 0..6 {
        let operation = match turn % 2 {
            0 => stop(&one, "orders").await,
            _ => start(&one, "orders").await,
        };
        two.wait(&operation).await;
        let found = store.query_one(age, &[&id(&operation)]).await.unwrap();
        quickest = quickest.min(found.get(0));
        assert_eq!(succeeded_here(&two, &operation), 0, "another host's work");
    }
    // By itself it would look again only after two seconds.
    assert!(quickest < 1.0, "{quickest} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_on_a_host_is_done_there() {
    let mut one = Howdah::serve(options().await).await;
    let two = Howdah::serve(beside(&one)).await;
    let host = one.instance("orders").await.servers[0].host.clone();
    one.stop().await;

    let here = create(&two, "here").await;
    assert!(is_success(&two.wait(&here).await));
    // Asked for at the other host; only one of the two can do it.
    let chosen = Instance {
        provider_config: Some(ProviderConfig::Local(LocalProviderConfig { host })),
        ..ephemeral()
    };
    let request = create_instance("billing", chosen);
    let accepted = two.instances().await.create_instance(request).await;
    let there = accepted.unwrap().into_inner();
    let claims = claims(&two).await;
    let request = WaitOperationRequest {
        name: there.name.clone(),
        timeout: Some(prost_types::Duration {
            seconds: 3,
            nanos: 0,
        }),
    };
    let waited = two.operations().await.wait_operation(request).await;
    assert!(!waited.unwrap().into_inner().done, "its host is away");
    let looked = self::claims(&two).await - claims;
    assert!(looked < 20, "looked {looked} times for what it cannot do");

    one.start("").await;
    assert!(is_success(&two.wait(&there).await));
    succeeded_once(&one, &there).await;
    assert_eq!((one.servers().len(), two.servers().len()), (2, 1));
}

/// A host rarely dies at rest: what it left unfinished does not stand in the way of
/// those who give it up.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_gone_is_given_up_with_its_work() {
    let mut one = Howdah::new(options().await);
    one.start("instance.create.start.before_effect=pause").await;
    let store = metadata(&one.options).await;
    let unfinished = create(&one, "orders").await;
    stage_runs(&store, &unfinished, "start").await;
    one.kill().await;
    let age = "update processes set seen_time = now() - interval '1 hour'";
    store.execute(age, &[]).await.unwrap();

    let two = Howdah::serve(beside(&one)).await;
    let delete = |force| DeleteInstanceRequest {
        name: instance_name("orders"),
        force,
        purge: true,
        ..DeleteInstanceRequest::default()
    };
    let gone = |answer: Result<tonic::Response<_>, _>| {
        refused(answer, tonic::Code::FailedPrecondition, "HOST_UNAVAILABLE")
    };
    let mut instances = two.instances().await;
    gone(instances.delete_instance(delete(false)).await);
    // By itself it would destroy what the host may bring back.
    let keeping = DeleteInstanceRequest {
        purge: false,
        ..delete(true)
    };
    gone(instances.delete_instance(keeping).await);
    let start = StartInstanceRequest {
        name: instance_name("orders"),
        ..StartInstanceRequest::default()
    };
    gone(instances.start_instance(start).await);
    let request = crate::support::howdah::create_database("orders", "shop");
    gone(two.databases().await.create_database(request).await);
    let cancel = CancelOperationRequest {
        name: unfinished.name.clone(),
    };
    let answer = two.operations().await.cancel_operation(cancel).await;
    refused(answer, tonic::Code::FailedPrecondition, "HOST_UNAVAILABLE");
    // Also when it was requested while the host was there.
    let requested = "update operations set cancel_requested = true where end_time is null";
    store.execute(requested, &[]).await.unwrap();
    let cancel = CancelOperationRequest {
        name: unfinished.name.clone(),
    };
    let answer = two.operations().await.cancel_operation(cancel).await;
    refused(answer, tonic::Code::FailedPrecondition, "HOST_UNAVAILABLE");
    let request = howdah::pb::v1::GetInstanceRequest {
        name: instance_name("orders"),
    };
    let shown = instances.get_instance(request).await.unwrap().into_inner();
    let told = |condition: &howdah::pb::v1::Condition| {
        condition.r#type == "Available" && condition.reason == "HOST_UNAVAILABLE"
    };
    assert!(shown.conditions.iter().any(told), "{shown:?}");
    let accepted = two.instances().await.delete_instance(delete(true)).await;
    assert!(is_success(&two.wait(accepted.unwrap().get_ref()).await));
    let (code, _) = failed(&two.operation(&unfinished.name).await);
    assert_eq!(code, tonic::Code::FailedPrecondition as i32);
    // The id is free.
    two.instance("orders").await;
    // When it comes back, it leaves its old work alone.
    one.start("").await;
    one.instance("billing").await;
    assert_eq!(one.servers().len(), 1);
    assert!(!is_success(&one.operation(&unfinished.name).await));
}

/// A host whose sign of life is late does not take itself for gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_host_cancels_its_own_work() {
    let mut one = Howdah::new(options().await);
    one.start("instance.create.start.before_wait=1*sleep(1500)")
        .await;
    let store = metadata(&one.options).await;
    let sql = "create function silent() returns trigger language plpgsql as
            'begin new.seen_time := now() - interval ''1 hour''; return new; end';
        create trigger silent before insert or update on processes
            for each row execute function silent();
        update processes set seen_time = now()";
    store.batch_execute(sql).await.unwrap();
    let operation = create(&one, "orders").await;
    stage_runs(&store, &operation, "start").await;
    let cancel = CancelOperationRequest {
        name: operation.name.clone(),
    };
    one.operations()
        .await
        .cancel_operation(cancel)
        .await
        .unwrap();
    let (code, _) = failed(&one.wait(&operation).await);
    assert_eq!(code, tonic::Code::Cancelled as i32);
}

/// Every replica returns the address that the server was started with.
#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_what_a_server_was_started_with() {
    const ADVERTISE: &str = "HOWDAH_LOCAL_ADVERTISE_HOST";
    let mut one = Howdah::serve(options().await.with(ADVERTISE, "one.example")).await;
    one.instance("orders").await;
    let told = one.database("orders", "shop").await;
    assert_eq!(told.host, "one.example");
    let two = Howdah::serve(beside(&one).with(ADVERTISE, "two.example")).await;
    let request = || GetInstanceRequest {
        name: instance_name("orders"),
    };
    let get = async |howdah: &Howdah| {
        let found = howdah.instances().await.get_instance(request()).await;
        found.unwrap().into_inner()
    };
    assert_eq!(two.connection("orders", "shop").await, told);
    assert_eq!(get(&two).await, get(&one).await);

    one.stop().await;
    let changed = (ADVERTISE.to_owned(), "changed.example".to_owned());
    one.options.environment.push(changed);
    one.start("").await;
    assert_eq!(
        one.connection("orders", "shop").await,
        told,
        "it runs on as before"
    );
    let stopped = stop(&two, "orders").await;
    succeeded::<Instance>(&two.wait(&stopped).await);
    let started = start(&two, "orders").await;
    succeeded::<Instance>(&two.wait(&started).await);
    for howdah in [&one, &two] {
        let told = howdah.connection("orders", "shop").await;
        assert_eq!(told.host, "changed.example");
    }
}

/// How often it has looked for an operation to claim.
async fn claims(howdah: &Howdah) -> u64 {
    queries(howdah, "lease.claim_operation").await
}

/// The metadata are away for longer than the lease; the operation goes on afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_outlives_the_metadata_being_away() {
    let server = Server::start(15, &[]);
    let data = server.data().display().to_string();
    let url = format!(
        "postgres://{SUPERUSER}:{PASSWORD}@127.0.0.1:{}/postgres",
        server.port
    );
    let options = Options {
        database_url: Some(url),
        environment: vec![(LEASE.0.into(), LEASE.1.into())],
    };
    let mut one = Howdah::new(options);
    one.start("instance.create.start.before_commit=1*sleep(1000)")
        .await;
    let operation = create(&one, "orders").await;
    let store = server.client("postgres").await;
    stage_runs(&store, &operation, "start").await;
    drop(store);
    let log = server.dir.join("log").display().to_string();
    let pg_ctl = |args: &[&str]| {
        let done = server
            .command("pg_ctl")
            .args(["-D", &data, "-w"])
            .args(args)
            .output();
        let done = done.unwrap();
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(done.status.success(), "{done:?}\n{}", log());
    };
    pg_ctl(&["stop", "-m", "immediate"]);
    eventually("the lease is given up", async || {
        one.log().contains("lease expired")
    })
    .await;
    pg_ctl(&["start", "-l", &log]);
    let done = eventually_done(&one, &operation).await;
    assert_eq!(succeeded::<Instance>(&done).state(), State::Ready);
    succeeded_once(&one, &operation).await;
    assert_eq!(one.servers().len(), 1);
}

/// Calls may still be refused for a moment.
async fn eventually_done(howdah: &Howdah, operation: &Operation) -> Operation {
    let look = async || {
        let request = WaitOperationRequest {
            name: operation.name.clone(),
            timeout: Some(prost_types::Duration {
                seconds: 2,
                nanos: 0,
            }),
        };
        let waited = howdah.operations().await.wait_operation(request).await;
        waited.ok().map(tonic::Response::into_inner)
    };
    eventually("the operation is done", async || {
        look().await.is_some_and(|operation| operation.done)
    })
    .await;
    look().await.unwrap()
}
