//! Every operation against a provider whose servers take their time, fail and die: the
//! simulated one, whose world this process writes.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use howdah::{
    pb::{
        google::longrunning::CancelOperationRequest,
        v1::{
            DeleteDatabaseRequest, DeleteInstanceRequest, Instance, RestartInstanceRequest,
            StartInstanceRequest, StopInstanceRequest, UndeleteInstanceRequest, instance::State,
        },
    },
    pg::{self, Host, Tls},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::rig::Metadata;
use crate::support::{
    howdah::{Howdah, Options, create_instance, eventually, instance_name, reason, succeeded},
    postgres::{PASSWORD, SUPERUSER, Server},
};

/// A world with a real PostgreSQL, which all of its servers are.
pub(crate) struct World {
    directory: TempDir,
    real: Server,
}

impl World {
    /// With these settings of its PostgreSQL.
    pub(crate) fn new(settings: &[(&str, &str)]) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            real: Server::start(15, settings),
        }
    }

    /// Lets its servers be so from now on.
    pub(crate) fn is(&self, how: &Value) {
        self.write(how, self.real.tcp(Tls::Disable).port);
    }

    /// Its servers run, and take no connections.
    pub(super) fn is_out_of_reach(&self) {
        self.write(&json!({}), 1);
    }

    fn write(&self, how: &Value, port: u16) {
        let target = self.real.tcp(Tls::Disable);
        let Host::Tcp(host) = &target.host else {
            panic!("not over TCP: {target:?}");
        };
        let mut world = how.clone();
        world["postgresql"] = json!({
            "host": host, "port": port, "user": SUPERUSER, "password": PASSWORD,
            "version": "15.0",
        });
        let unfinished = self.directory.path().join("world.json.new");
        fs::write(&unfinished, world.to_string()).unwrap();
        fs::rename(unfinished, self.directory.path().join("world.json")).unwrap();
    }

    /// Files of its servers.
    pub(crate) fn servers(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        // Not those that are being written under another name.
        let server = |path: &PathBuf| {
            path.file_name().unwrap() != "world.json" && path.extension().unwrap() == "json"
        };
        paths.filter(server).collect()
    }

    /// What its servers are like now.
    pub(crate) fn states(&self) -> Vec<Value> {
        let read = |path: &PathBuf| serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        self.servers().iter().map(read).collect()
    }

    /// A connection to its PostgreSQL.
    pub(crate) async fn superuser(&self) -> pg::Client {
        self.real.client("postgres").await
    }

    /// The only server.
    fn server(&self) -> (PathBuf, Value) {
        let servers = self.servers();
        assert_eq!(servers.len(), 1);
        let server = serde_json::from_slice(&fs::read(&servers[0]).unwrap()).unwrap();
        (servers[0].clone(), server)
    }

    /// Whether the only server runs.
    pub(super) fn runs(&self) -> bool {
        self.server().1["running"] == true
    }

    fn place(&self, server: Uuid) -> PathBuf {
        self.directory.path().join(format!("{server}.json"))
    }

    /// Whether that server runs.
    pub(super) fn is_up(&self, server: Uuid) -> bool {
        let read = fs::read(self.place(server)).map(|text| {
            let server: Value = serde_json::from_slice(&text).unwrap();
            server["running"] == true
        });
        read.unwrap_or_default()
    }

    /// That server ends.
    pub(super) fn end(&self, server: Uuid) {
        let text = fs::read(self.place(server)).unwrap();
        let found = serde_json::from_slice(&text).unwrap();
        self.let_it_run(self.place(server), found, false);
    }

    fn let_run(&self, running: bool) {
        let (place, server) = self.server();
        self.let_it_run(place, server, running);
    }

    fn let_it_run(&self, place: PathBuf, mut server: Value, running: bool) {
        assert_eq!(server["running"], !running);
        server["running"] = json!(running);
        let unfinished = self.directory.path().join("changed.new");
        fs::write(&unfinished, server.to_string()).unwrap();
        fs::rename(unfinished, place).unwrap();
    }

    /// The only server ends.
    pub(crate) fn kill(&self) {
        self.let_run(false);
    }

    /// The only server comes up by itself.
    pub(super) fn revive(&self) {
        self.let_run(true);
    }

    /// What its PostgreSQL has logged.
    pub(super) fn log(&self) -> String {
        self.real.log()
    }

    pub(crate) async fn options(&self) -> Options {
        Options::external()
            .await
            .with(
                "HOWDAH_SIMULATED_WORLD",
                self.directory.path().to_str().unwrap(),
            )
            .with("HOWDAH_OPERATIONS_SCAN_INTERVAL", "1s")
    }
}

async fn is(howdah: &Howdah, state: State) {
    eventually("the instance is so", async || {
        let request = howdah::pb::v1::GetInstanceRequest {
            name: instance_name("orders"),
        };
        let found = howdah.instances().await.get_instance(request).await;
        found.unwrap().get_ref().state() == state
    })
    .await;
}

macro_rules! change {
    ($howdah:expr, $method:ident, $request:ident) => {{
        let request = $request {
            name: instance_name("orders"),
            ..$request::default()
        };
        let accepted = $howdah.instances().await.$method(request).await;
        let done = $howdah.wait(accepted.unwrap().get_ref()).await;
        succeeded::<Instance>(&done).state()
    }};
}

async fn purge(howdah: &Howdah) {
    let request = DeleteInstanceRequest {
        name: instance_name("orders"),
        force: true,
        purge: true,
        ..DeleteInstanceRequest::default()
    };
    let accepted = howdah.instances().await.delete_instance(request).await;
    let done = howdah.wait(accepted.unwrap().get_ref()).await;
    succeeded::<()>(&done);
}

/// Has no transaction commit with an instance that is available though it is not READY.
const HONEST: &str = r#"
    create function be_honest() returns trigger language plpgsql as $$ begin
        if exists (select from instances where uid = new.uid and state <> 'READY'
            and conditions @> '[{"type": "Available", "status": "TRUE"}]') then
            raise exception 'available, and not READY';
        end if;
        return null;
    end $$;
    create constraint trigger be_honest after insert or update on instances
        deferrable initially deferred for each row execute function be_honest()"#;

/// Each kind of operation, each time with a failure and three waits.
async fn live_a_life(howdah: &Howdah, world: &World) {
    let made = howdah.instance("orders").await;
    assert_eq!(made.state(), State::Ready);
    assert_eq!(made.servers[0].provider, "simulated");
    howdah.database("orders", "shop").await;
    assert_eq!(
        change!(howdah, stop_instance, StopInstanceRequest),
        State::Stopped
    );
    assert_eq!(
        change!(howdah, start_instance, StartInstanceRequest),
        State::Ready
    );
    assert_eq!(
        change!(howdah, restart_instance, RestartInstanceRequest),
        State::Ready
    );
    world.kill();
    eventually("it is recovered", async || world.runs()).await;
    is(howdah, State::Ready).await;
    let request = DeleteDatabaseRequest {
        name: format!("{}/databases/shop", instance_name("orders")),
        ..DeleteDatabaseRequest::default()
    };
    let accepted = howdah.databases().await.delete_database(request).await;
    succeeded::<()>(&howdah.wait(accepted.unwrap().get_ref()).await);
    assert_eq!(
        change!(howdah, delete_instance, DeleteInstanceRequest),
        State::Deleted
    );
    assert_eq!(
        change!(howdah, undelete_instance, UndeleteInstanceRequest),
        State::Ready
    );
    purge(howdah).await;
    assert_eq!(world.servers(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_may_take_their_time_and_fail_for_a_while() {
    let world = World::new(&[]);
    world.is(&json!({ "looks": 3, "failures": 2 }));
    let howdah = Howdah::serve(world.options().await).await;
    Metadata::of(&howdah).await.execute(HONEST).await;
    live_a_life(&howdah, &world).await;
}

/// What fails for good is taken back, and its id is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_world_fails_a_creation_for_good() {
    let world = World::new(&[]);
    world.is(&json!({ "broken": true }));
    let howdah = Howdah::serve(world.options().await).await;
    let create = create_instance("orders", Instance::default());
    let accepted = howdah.instances().await.create_instance(create).await;
    let done = howdah.wait(accepted.unwrap().get_ref()).await;
    let Some(howdah::pb::google::longrunning::operation::Result::Error(error)) = done.result else {
        panic!("{done:?}");
    };
    assert!(error.message.contains("broken"), "{error:?}");
    world.is(&json!({}));
    howdah.instance("orders").await;
}

/// Two hundred operations that wait take nothing from one that does not, and each of
/// them can be cancelled at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_waits_holds_nobody_up() {
    let world = World::new(&[]);
    world.is(&json!({}));
    let many = world
        .options()
        .await
        .with("HOWDAH_LOCAL_PORTS", "5000-6999");
    let howdah = Howdah::serve(many).await;
    let mut waiting = Vec::new();
    for number in 0..200 {
        let instance = Instance {
            parameters: [("simulated.looks".to_owned(), "1000000".to_owned())].into(),
            ..Instance::default()
        };
        let create = create_instance(&format!("waits-{number}"), instance);
        let accepted = howdah.instances().await.create_instance(create).await;
        waiting.push(accepted.unwrap().into_inner());
    }
    let metadata = Metadata::of(&howdah).await;
    let all_wait = "operations where waiting_since is not null and end_time is null";
    eventually("all wait", async || metadata.count(all_wait).await == 200).await;
    let begun = Instant::now();
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    // Without the crowd this takes a tenth of a second; behind it, minutes.
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(metadata.count(all_wait).await, 200);
    for operation in &waiting {
        let request = CancelOperationRequest {
            name: operation.name.clone(),
        };
        let cancelled = howdah.operations().await.cancel_operation(request).await;
        cancelled.map_err(|status| reason(&status)).unwrap();
    }
    for operation in &waiting {
        let done = howdah.wait(operation).await;
        assert!(done.done && done.result.is_some(), "{done:?}");
    }
    assert_eq!(world.servers().len(), 1);
}
