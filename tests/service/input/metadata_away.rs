//! A metadata database that is not there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use howdah::pb::{
    google::longrunning::{GetOperationRequest, Operation},
    v1::{GetInstanceRequest, Instance, ListInstancesRequest},
};
use tokio::task::JoinSet;
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    service::rig::{Metadata, refused},
    support::{
        howdah::{
            Howdah, LIMIT, Options, PROJECT, create_instance, eventually, instance_name, reason,
            succeeded,
        },
        ports,
        postgres::{PASSWORD, SUPERUSER, Server},
    },
};

/// Longest wait of a call for a connection, in the programs here.
const ACQUIRE: Duration = Duration::from_secs(1);

/// A server for metadata that can be taken away.
struct Away(Server);

impl Away {
    fn new() -> Self {
        Self(Server::start(15, &[]))
    }

    async fn options(&self) -> Options {
        let database = self.0.fresh_database().await;
        let url = format!(
            "postgres://{SUPERUSER}:{PASSWORD}@127.0.0.1:{}/{database}",
            self.0.port
        );
        Options {
            database_url: Some(url),
            ..Options::default()
        }
        .with("HOWDAH_DATABASE_ACQUIRE_TIMEOUT", "1s")
    }

    fn stop(&self) {
        self.0.control(&["stop", "-m", "fast"]);
    }

    fn start(&self) {
        self.0.control(&["start"]);
    }
}

async fn health(channel: Channel) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest {
        service: "howdah.v1.InstanceService".into(),
    };
    let answer = HealthClient::new(channel).check(request).await?;
    Ok(answer.into_inner().status())
}

/// It starts, says that it does not serve, and does so once the database is there.
#[tokio::test(flavor = "multi_thread")]
async fn away_at_start() {
    let away = Away::new();
    let address = format!("127.0.0.1:{}", ports::one());
    let options = away.options().await.with("HOWDAH_LISTEN", &address);
    away.stop();
    let mut howdah = Howdah::new(options);
    howdah.spawn("");
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect_lazy();
    eventually("it listens", async || health(channel.clone()).await.is_ok()).await;
    assert_eq!(
        health(channel.clone()).await.unwrap(),
        ServingStatus::NotServing
    );
    assert!(!howdah.data_dir().join("endpoint").exists());
    let mut instances =
        howdah::pb::v1::instance_service_client::InstanceServiceClient::new(channel.clone());
    let began = Instant::now();
    let name = instance_name("orders");
    let answer = instances.get_instance(GetInstanceRequest { name }).await;
    refused(answer, Code::Unavailable, "METADATA_UNAVAILABLE");
    let request = create_instance("orders", Instance::default());
    let answer = instances.create_instance(request).await;
    refused(answer, Code::Unavailable, "METADATA_UNAVAILABLE");
    assert!(began.elapsed() < ACQUIRE * 6, "{:?}", began.elapsed());

    // Nobody is let in between the tables and the check of the key.
    let met = Arc::<Met>::default();
    let mut load = JoinSet::new();
    for _ in 0..8 {
        load.spawn(read(channel.clone(), Arc::clone(&met)));
    }
    eventually("calls are refused", async || {
        met.refused.load(Ordering::Relaxed) > 0
    })
    .await;
    away.start();
    howdah.ready().await;
    assert_eq!(health(channel).await.unwrap(), ServingStatus::Serving);
    eventually("calls are answered", async || {
        met.answered.load(Ordering::Relaxed) > 0
    })
    .await;
    met.ended.store(true, Ordering::Relaxed);
    while let Some(done) = load.join_next().await {
        done.unwrap();
    }
    howdah.instance("orders").await;
}

/// What the callers met.
#[derive(Default)]
struct Met {
    answered: AtomicU32,
    refused: AtomicU32,
    ended: AtomicBool,
}

/// Reads until it is told to end; the only refusal is METADATA_UNAVAILABLE, and none
/// takes much longer than the wait for a connection.
async fn read(channel: Channel, met: Arc<Met>) {
    let mut client = howdah::pb::v1::instance_service_client::InstanceServiceClient::new(channel);
    while !met.ended.load(Ordering::Relaxed) {
        let began = Instant::now();
        let request = ListInstancesRequest {
            parent: PROJECT.into(),
            ..ListInstancesRequest::default()
        };
        match client.list_instances(request).await {
            Ok(_) => met.answered.fetch_add(1, Ordering::Relaxed),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                assert_eq!(reason(&status), "METADATA_UNAVAILABLE", "{status:?}");
                met.refused.fetch_add(1, Ordering::Relaxed)
            }
        };
        // Generous for a busy machine, far from the 60 s of a call.
        assert!(began.elapsed() < ACQUIRE * 8, "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Takes the database away for so long, under load, with operations under way.
pub(crate) async fn goes_away_for(outage: Duration) {
    let away = Away::new();
    let howdah = Howdah::serve(away.options().await).await;
    howdah.instance("orders").await;
    let met = Arc::<Met>::default();
    let mut load = JoinSet::new();
    let channel = howdah.channel().await;
    for _ in 0..8 {
        load.spawn(read(channel.clone(), Arc::clone(&met)));
    }
    let mut begun: Vec<Operation> = Vec::new();
    for id in ["a", "b", "c", "d", "e", "f"] {
        let instance = Instance {
            ephemeral: true,
            ..Instance::default()
        };
        let answer = howdah
            .instances()
            .await
            .create_instance(create_instance(id, instance))
            .await;
        begun.push(answer.unwrap().into_inner());
    }
    away.stop();
    let back = Instant::now() + outage;
    let before = met.refused.load(Ordering::Relaxed);
    while Instant::now() < back {
        let request = create_instance("never", Instance::default());
        let answer = howdah.instances().await.create_instance(request).await;
        refused(answer, Code::Unavailable, "METADATA_UNAVAILABLE");
    }
    assert!(met.refused.load(Ordering::Relaxed) > before);
    away.start();
    let request = GetInstanceRequest {
        name: instance_name("orders"),
    };
    eventually("calls are answered again", async || {
        let mut instances = howdah.instances().await;
        instances.get_instance(request.clone()).await.is_ok()
    })
    .await;
    for operation in &begun {
        let operation = finish(&howdah, operation).await;
        let instance: Instance = succeeded(&operation);
        assert_eq!(instance.state(), howdah::pb::v1::instance::State::Ready);
    }
    let answered = met.answered.load(Ordering::Relaxed);
    eventually("readers are answered again", async || {
        met.answered.load(Ordering::Relaxed) > answered
    })
    .await;
    met.ended.store(true, Ordering::Relaxed);
    while let Some(done) = load.join_next().await {
        done.unwrap();
    }
    assert_eq!(howdah.servers().len(), 7);
    howdah.instance("after").await;
}

/// Waits for an operation through what the outage leaves behind.
async fn finish(howdah: &Howdah, operation: &Operation) -> Operation {
    let end = Instant::now() + LIMIT * 2;
    loop {
        let request = GetOperationRequest {
            name: operation.name.clone(),
        };
        let found = howdah.operations().await.get_operation(request).await;
        match found.map(tonic::Response::into_inner) {
            Ok(found) if found.done => return found,
            found => assert!(Instant::now() < end, "{found:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn away_for_a_while_under_load() {
    goes_away_for(Duration::from_secs(10)).await;
}

/// Nor are the addresses of a process that was killed left to be found.
#[tokio::test]
async fn away_after_a_kill() {
    let away = Away::new();
    let mut howdah = Howdah::serve(away.options().await).await;
    howdah.kill().await;
    away.stop();
    let files = ["endpoint", "admin-endpoint"].map(|name| howdah.data_dir().join(name));
    assert!(files.iter().all(|file| file.exists()));
    howdah.spawn("");
    eventually("the files are gone", async || {
        !files.iter().any(|file| file.exists())
    })
    .await;
    away.start();
    howdah.ready().await;
    howdah.instance("orders").await;
}

/// A server that does not answer any more, and does not hang up either.
#[tokio::test]
async fn frozen_at_the_end() {
    let away = Away::new();
    let mut howdah = Howdah::serve(away.options().await).await;
    let frozen = away.0.freeze();
    let status = howdah.stop().await;
    drop(frozen);
    assert!(status.success(), "{}", howdah.log());
    let held = "connections to the metadata database were still in use";
    assert!(howdah.log().contains(held), "{}", howdah.log());
}

/// Migrations take their time, and whoever comes second waits for them.
#[tokio::test]
async fn held_by_somebodys_migration() {
    let options = Options::external().await;
    let options = options.with("HOWDAH_DATABASE_STATEMENT_TIMEOUT", "1s");
    let mut first = Howdah::serve(options.clone()).await;
    first.stop().await;
    let metadata = Metadata::of(&first).await;
    metadata
        .execute("begin; lock table _sqlx_migrations in access exclusive mode")
        .await;
    let mut second = Howdah::new(options);
    first.spawn("");
    second.spawn("");
    // One waits for the table, the other for the lock of the first. A session sees
    // pg_stat_activity as it was at its transaction's first look.
    let looker = Metadata::of(&first).await;
    let waiting = "pg_stat_activity where datname = current_database()
        and wait_event_type = 'Lock' and now() - query_start > '6 s'";
    eventually("both wait for longer than calls may", async || {
        looker.count(waiting).await == 2
    })
    .await;
    metadata.execute("rollback").await;
    first.ready().await;
    second.ready().await;
}

/// What is no URL, or no server's, ends the start with its reason.
#[tokio::test]
async fn a_url_that_is_none_ends_the_start() {
    for url in ["not a url", "mysql://127.0.0.1/x", "postgres://h:port/x"] {
        let options = Options {
            database_url: Some(url.into()),
            ..Options::default()
        };
        let mut howdah = Howdah::new(options);
        howdah.spawn("");
        let status = howdah.ended().await;
        assert_eq!(status.code(), Some(2), "{url}: {}", howdah.log());
        assert!(howdah.log().contains("CONFIG_INVALID"), "{}", howdah.log());
    }
}
