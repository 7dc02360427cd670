//! Instances with another server beside the active one, as an upgrade makes it.

use howdah::{
    pb::v1::{
        Condition, Database, DeleteInstanceRequest, GetInstanceRequest, Instance,
        RestartInstanceRequest, StartInstanceRequest, StopInstanceRequest, UndeleteInstanceRequest,
        condition::Status, instance::State, server::Role,
    },
    pg::Tls,
};
use serde_json::json;
use uuid::Uuid;

use super::{
    rig::{Metadata, failure, serve},
    simulated::World,
};
use crate::support::{
    howdah::{Howdah, create_database, eventually, instance_name, signal, succeeded},
    postgres::{PASSWORD, SUPERUSER, Server},
};

/// An instance of the simulated world with two servers that run.
struct Pair {
    world: World,
    howdah: Howdah,
    metadata: Metadata,
    active: Uuid,
    other: Uuid,
}

impl Pair {
    async fn new(role: &str) -> Self {
        let world = World::new(&[]);
        world.is(&json!({}));
        Self::in_world(world, role, Uuid::new_v4()).await
    }

    async fn in_world(world: World, role: &str, other: Uuid) -> Self {
        let howdah = Howdah::serve(world.options().await).await;
        let instance = howdah.instance("orders").await;
        let metadata = Metadata::of(&howdah).await;
        metadata.add_server("orders", role, other).await;
        let pair = Self {
            active: instance.servers[0].uid.parse().unwrap(),
            world,
            howdah,
            metadata,
            other,
        };
        eventually("the other server runs", async || pair.is_calm().await).await;
        pair
    }

    /// Both servers run, and nothing is being done about them.
    async fn is_calm(&self) -> bool {
        let up = self.world.is_up(self.active) && self.world.is_up(self.other);
        let under_way = "operations where end_time is null";
        up && self.metadata.count(under_way).await == 0
            && self.instance().await.state() == State::Ready
    }

    async fn instance(&self) -> Instance {
        get(&self.howdah).await
    }

    /// How often each server was recovered: the active one, and the other one.
    async fn recoveries(&self) -> (i64, i64) {
        let of = async |target: &str| {
            let recoveries = format!(
                "operations where kind = 'instance.recover' and state = 'SUCCEEDED'
                    and target = '{target}'"
            );
            self.metadata.count(&recoveries).await
        };
        let name = instance_name("orders");
        (of(&name).await, of(&format!("{name}/servers/2")).await)
    }

    /// The other server ends, and its recovery waits for long.
    async fn other_is_long_away(&self) {
        let waits = json!({ "servers": { self.other.to_string(): { "looks": 1_000_000 } } });
        self.world.is(&waits);
        self.world.end(self.other);
        eventually("its recovery waits", async || {
            self.other_is_waited_for().await
        })
        .await;
    }

    async fn other_is_waited_for(&self) -> bool {
        let waits = format!(
            "operations where target_uid = '{}' and end_time is null and waiting_since is not null",
            self.other
        );
        self.metadata.count(&waits).await == 1
    }

    async fn purge(&self) {
        let done = delete(&self.howdah, true).await;
        succeeded::<()>(&done);
        assert_eq!(self.world.servers(), Vec::<std::path::PathBuf>::new());
        assert_eq!(self.metadata.count("servers").await, 0);
    }
}

async fn get(howdah: &Howdah) -> Instance {
    let request = GetInstanceRequest {
        name: instance_name("orders"),
    };
    let found = howdah.instances().await.get_instance(request).await;
    found.unwrap().into_inner()
}

async fn delete(howdah: &Howdah, purge: bool) -> howdah::pb::google::longrunning::Operation {
    let request = DeleteInstanceRequest {
        name: instance_name("orders"),
        force: purge,
        purge,
        ..DeleteInstanceRequest::default()
    };
    let accepted = howdah.instances().await.delete_instance(request).await;
    howdah.wait(accepted.unwrap().get_ref()).await
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

fn condition<'a>(instance: &'a Instance, kind: &str) -> Option<&'a Condition> {
    let mut conditions = instance.conditions.iter();
    conditions.find(|condition| condition.r#type == kind)
}

fn is_available(instance: &Instance) -> bool {
    let available = condition(instance, "Available").unwrap();
    instance.state() == State::Ready && available.status() == Status::True
}

/// The recovery of the one waits, and holds up neither that of the other nor databases.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_waits_holds_up_nothing_that_needs_another_server() {
    let pair = Pair::new("SUCCESSOR").await;
    let roles = pair.instance().await.servers;
    let roles: Vec<Role> = roles.iter().map(|server| server.role()).collect();
    assert_eq!(roles, [Role::Active, Role::Successor]);

    let endpoint = pair.howdah.endpoint();
    let words = ["instances", "get", "orders", "--endpoint", &endpoint];
    let shown = String::from_utf8(pair.howdah.run(&words, "").stdout).unwrap();
    let line = shown.lines().find(|line| line.starts_with("server 2"));
    assert!(
        line.unwrap().contains("SUCCESSOR, PostgreSQL 15."),
        "{shown}"
    );

    pair.other_is_long_away().await;
    let instance = pair.instance().await;
    assert!(
        is_available(&instance) && !instance.reconciling,
        "{instance:?}"
    );
    let told = condition(&instance, "Server2Available").unwrap();
    assert_eq!(told.status(), Status::False);
    assert_eq!(told.reason, "SERVER_ENDED");
    assert!(told.message.starts_with("server 2: "), "{told:?}");

    pair.howdah.database("orders", "shop").await;
    pair.world.end(pair.active);
    eventually("the active server is recovered", async || {
        pair.recoveries().await == (1, 1) && is_available(&pair.instance().await)
    })
    .await;
    pair.howdah.database("orders", "stock").await;
    assert!(pair.other_is_waited_for().await);

    pair.world.is(&json!({}));
    eventually("the other one is recovered", async || pair.is_calm().await).await;
    assert_eq!(pair.recoveries().await, (1, 2));
    let instance = pair.instance().await;
    assert!(is_available(&instance), "{instance:?}");
    assert_eq!(condition(&instance, "Server2Available"), None);
}

/// Has no transaction commit that changes the state or `Available` of an instance.
const UNTOUCHED: &str = r#"
    create function leave_alone() returns trigger language plpgsql as $$ begin
        if new.state <> old.state or not new.conditions @> '[{"type": "Available", "status": "TRUE"}]'
        then
            raise exception 'the instance is as before';
        end if;
        return new;
    end $$;
    create trigger leave_alone before update on instances
        for each row execute function leave_alone()"#;

#[tokio::test(flavor = "multi_thread")]
async fn only_the_server_that_died_is_recovered() {
    let pair = Pair::new("RETIRED").await;
    assert_eq!(pair.recoveries().await, (0, 1));
    pair.world.end(pair.active);
    eventually("the active one is recovered", async || {
        pair.recoveries().await == (1, 1) && pair.is_calm().await
    })
    .await;
    pair.metadata.execute(UNTOUCHED).await;
    pair.world.end(pair.other);
    eventually("the other one is recovered", async || {
        pair.recoveries().await == (1, 2) && pair.is_calm().await
    })
    .await;
    assert!(is_available(&pair.instance().await));
}

/// Operations on databases rest when the active server is silent, and not for another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_does_not_wait_for_a_server_that_it_does_not_need() {
    let pair = Pair::new("SUCCESSOR").await;
    // Due later than the recovery, and sooner than what rests.
    let later = "alter table operations alter run_time set default now() + interval '15 s'";
    pair.metadata.execute(later).await;
    let request = create_database("orders", "shop");
    let accepted = pair.howdah.databases().await.create_database(request).await;
    let now = "alter table operations alter run_time set default now()";
    pair.metadata.execute(now).await;
    pair.world.is(&json!({ "failures": 1_000_000 }));
    pair.world.end(pair.other);
    let failed = "operations where kind = 'instance.recover' and state = 'FAILED'
        and failure ->> 'reason' = 'SERVER_UNAVAILABLE'";
    eventually("its recovery fails", async || {
        pair.metadata.count(failed).await > 0
    })
    .await;
    let rests = "operations where kind = 'database.create'
        and run_time > create_time + interval '16 s'";
    assert_eq!(pair.metadata.count(rests).await, 0);
    let done = pair.howdah.wait(accepted.unwrap().get_ref()).await;
    succeeded::<Database>(&done);
}

/// One that does not come up is tried again after pauses, and the instance stays READY.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_beside_the_active_one_that_fails_is_said_and_tried_again() {
    let pair = Pair::new("SUCCESSOR").await;
    pair.metadata.execute(UNTOUCHED).await;
    pair.world.is(&json!({ "broken": true }));
    pair.world.end(pair.other);
    let failed = "operations where kind = 'instance.recover' and state = 'FAILED'";
    eventually("its recovery fails", async || {
        pair.metadata.count(failed).await > 0
    })
    .await;
    let instance = pair.instance().await;
    let told = condition(&instance, "Server2Available").unwrap();
    assert_eq!(
        (told.status(), told.reason.as_str()),
        (Status::False, "SERVER_START_FAILED")
    );
    pair.world.is(&json!({}));
    eventually("it runs", async || pair.is_calm().await).await;
    assert_eq!(condition(&pair.instance().await, "Server2Available"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_on_an_instance_take_all_of_its_servers() {
    let pair = Pair::new("SUCCESSOR").await;
    let (howdah, world) = (&pair.howdah, &pair.world);
    let all_down = || !world.is_up(pair.active) && !world.is_up(pair.other);
    assert_eq!(
        change!(howdah, stop_instance, StopInstanceRequest),
        State::Stopped
    );
    assert!(all_down());
    let to_stop = "servers where wanted = 'STOPPED'";
    assert_eq!(pair.metadata.count(to_stop).await, 2);
    assert_eq!(
        change!(howdah, start_instance, StartInstanceRequest),
        State::Ready
    );
    eventually("both run", async || pair.is_calm().await).await;
    assert_eq!(
        change!(howdah, restart_instance, RestartInstanceRequest),
        State::Ready
    );
    eventually("both run", async || pair.is_calm().await).await;
    let deleted: Instance = succeeded(&delete(howdah, false).await);
    assert_eq!(deleted.state(), State::Deleted);
    assert!(all_down());
    assert_eq!(pair.metadata.count(to_stop).await, 2);
    assert_eq!(
        change!(howdah, undelete_instance, UndeleteInstanceRequest),
        State::Ready
    );
    eventually("both run", async || pair.is_calm().await).await;
    succeeded::<Instance>(&delete(howdah, false).await);
    pair.purge().await;
}

/// A user's wish takes the place of each recovery.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_of_another_server_gives_way_to_a_stop_and_a_purge() {
    let pair = Pair::new("SUCCESSOR").await;
    pair.other_is_long_away().await;
    let stopped = change!(pair.howdah, stop_instance, StopInstanceRequest);
    assert_eq!(stopped, State::Stopped);
    assert!(!pair.world.is_up(pair.active));
    assert!(!pair.other_is_waited_for().await);
    let cancelled = "operations where kind = 'instance.recover' and state = 'CANCELLED'";
    assert_eq!(pair.metadata.count(cancelled).await, 1);
    assert_eq!(condition(&pair.instance().await, "Server2Available"), None);

    let started = change!(pair.howdah, start_instance, StartInstanceRequest);
    assert_eq!(started, State::Ready);
    eventually("its recovery waits", async || {
        pair.other_is_waited_for().await
    })
    .await;
    let request = DeleteInstanceRequest {
        name: instance_name("orders"),
        force: true,
        purge: true,
        ..DeleteInstanceRequest::default()
    };
    let accepted = pair.howdah.instances().await.delete_instance(request).await;
    assert!(!pair.other_is_waited_for().await);
    pair.world.is(&json!({}));
    succeeded::<()>(&pair.howdah.wait(accepted.unwrap().get_ref()).await);
    assert_eq!(pair.world.servers(), Vec::<std::path::PathBuf>::new());
}

/// What a subscription left is removed from the server that it was made on.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_swept_from_its_own_server() {
    let (world, other) = (World::new(&[]), Uuid::new_v4());
    let elsewhere = Server::start(15, &[("wal_level", "logical")]);
    let port = elsewhere.tcp(Tls::Disable).port;
    world.is(&json!({ "servers": { other.to_string(): { "postgresql": {
        "host": "127.0.0.1", "port": port, "user": SUPERUSER, "password": PASSWORD,
        "version": "15.0",
    } } } }));
    let pair = Pair::in_world(world, "RETIRED", other).await;
    let (here, there) = (
        pair.world.superuser().await,
        elsewhere.client("postgres").await,
    );
    let uid = Uuid::new_v4();
    let name = format!("howdah_tmp_{}", uid.simple());
    for client in [&here, &there] {
        let create = format!("create publication {name}_0 for all tables");
        client.batch_execute(&create).await.unwrap();
    }
    let left = format!(
        "insert into subscriptions (uid, server_uid, database, slot)
         values ('{uid}', '{other}', 'postgres', '{name}');
         insert into leases (resource, worker, until)
         values ('{uid}', gen_random_uuid(), now() - interval '1 minute')"
    );
    pair.metadata.execute(&left).await;
    eventually("it is swept", async || {
        pair.metadata.count("subscriptions").await == 0
    })
    .await;
    let publications = "select count(*) from pg_publication";
    let count = async |client: &howdah::pg::Client| {
        client
            .query_one(publications, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
    };
    assert_eq!((count(&here).await, count(&there).await), (1, 0));
}

/// The same with processes and directories.
#[tokio::test(flavor = "multi_thread")]
async fn two_local_servers_live_and_go_together() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;
    let first = howdah.servers();
    metadata
        .add_server("orders", "SUCCESSOR", Uuid::new_v4())
        .await;
    let calm = async |count: usize| {
        eventually("all servers run", async || {
            let under_way = metadata.count("operations where end_time is null").await;
            howdah.servers().len() == count && under_way == 0
        })
        .await;
    };
    calm(2).await;
    let second = howdah
        .servers()
        .into_iter()
        .find(|pid| !first.contains(pid));
    signal(second.unwrap(), "KILL");
    eventually("it has ended", async || {
        !howdah.servers().contains(&second.unwrap())
    })
    .await;
    calm(2).await;
    assert!(
        howdah.servers().contains(&first[0]),
        "the active one was left alone"
    );
    assert!(is_available(&get(&howdah).await));

    assert_eq!(
        change!(howdah, stop_instance, StopInstanceRequest),
        State::Stopped
    );
    assert_eq!(howdah.servers(), Vec::<u32>::new());
    assert_eq!(
        change!(howdah, start_instance, StartInstanceRequest),
        State::Ready
    );
    calm(2).await;
    succeeded::<()>(&delete(&howdah, true).await);
    assert_eq!(howdah.servers(), Vec::<u32>::new());
    assert!(howdah.local("servers").is_empty() && howdah.local("trash").is_empty());
}

/// A server that is out of reach is not taken for one that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_another_host_is_not_forgotten() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;
    metadata.execute("begin").await;
    metadata
        .add_server("orders", "RETIRED", Uuid::new_v4())
        .await;
    let away = "with away as (insert into hosts (id, name) values (gen_random_uuid(), 'away')
            returning id)
        update servers set host = away.id from away where role = 'RETIRED'";
    metadata.execute(away).await;
    metadata.execute("commit").await;
    assert_eq!(failure(&delete(&howdah, true).await).1, "HOST_ELSEWHERE");
    assert_eq!(metadata.count("servers").await, 2);
}
