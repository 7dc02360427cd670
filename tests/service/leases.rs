//! Leases of processes on one host: who supervises its servers, and whose subscriptions
//! are open.

use howdah::{
    pb::{
        google::longrunning::ListOperationsRequest,
        v1::{ChangeBatch, Connection, SubscribeRequest},
    },
    pg,
};
use tonic::Streaming;

use super::{
    replicas::{beside, on_host_of, options},
    rig::{Metadata, refused, run_sql, serve, subscribe, superuser},
};
use crate::support::howdah::{Howdah, Options, PROJECT, eventually, instance_name, signal};

/// What a process logs that has taken the lease of a place.
const SUPERVISES: &str = "this process supervises the servers";

/// What a process logs that has lost it.
const SUPERVISES_NO_MORE: &str = "another process supervises the servers";

/// How many operations there are.
async fn operations(howdah: &Howdah) -> usize {
    let list = ListOperationsRequest {
        name: PROJECT.into(),
        ..ListOperationsRequest::default()
    };
    let listed = howdah.operations().await.list_operations(list).await;
    listed.unwrap().into_inner().operations.len()
}

/// Kills the only server of the host, which lies in the data directory of that process.
fn kill_server(howdah: &Howdah) {
    let servers = howdah.servers();
    assert_eq!(servers.len(), 1);
    signal(servers[0], "KILL");
}

/// Waits until its server has been started again so many times.
async fn recovered(howdah: &Howdah, metadata: &Metadata, times: i64) {
    let recovered = "operations where verb = 'recover' and state = 'SUCCEEDED'";
    eventually("the server is started again", async || {
        metadata.count(recovered).await == times
    })
    .await;
    assert_eq!(howdah.servers().len(), 1);
}

/// Long, so that no lease runs out during a test.
async fn patient() -> Options {
    options().await.with("HOWDAH_OPERATIONS_LEASE", "60s")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_of_a_host_supervises_its_servers() {
    let one = Howdah::serve(patient().await).await;
    one.instance("orders").await;
    let two = Howdah::serve(on_host_of(&one)).await;
    let metadata = Metadata::of(&one).await;
    eventually("one supervises", async || one.log().contains(SUPERVISES)).await;
    assert!(!two.log().contains(SUPERVISES));
    signal(one.pid(), "STOP");
    kill_server(&one);
    // Longer than a scan of the one that stands by.
    tokio::time::sleep(std::time::Duration::from_secs(7)).await;
    assert_eq!(metadata.count("operations").await, 1, "it stands by");
    signal(one.pid(), "CONT");
    recovered(&one, &metadata, 1).await;
    assert_eq!(operations(&two).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_of_the_host_takes_the_supervision_over() {
    let mut one = Howdah::serve(options().await).await;
    one.instance("orders").await;
    let two = Howdah::serve(on_host_of(&one)).await;
    let metadata = Metadata::of(&one).await;
    one.kill().await;
    kill_server(&one);
    recovered(&one, &metadata, 1).await;
    assert!(two.log().contains(SUPERVISES));
    // It gives the supervision back as it ends: the next one does not wait.
    let mut two = two;
    two.stop().await;
    let free = "leases where resource in (select id from hosts) and until <= now()";
    assert_eq!(metadata.count(free).await, 1);
}

/// The one that has taken over pauses before its next try. The other one must not start the
/// server meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_without_the_newest_token_starts_nothing() {
    let mut one = Howdah::new(patient().await);
    one.start("supervision.before_recover=1*sleep(2000)").await;
    one.instance("orders").await;
    let metadata = Metadata::of(&one).await;
    kill_server(&one);
    let taken = "update leases set token = nextval('lease_tokens'), worker = gen_random_uuid(),
        until = now() + interval '1 hour' where resource in (select id from hosts)";
    metadata.execute(taken).await;
    eventually("it is refused", async || {
        one.log()
            .contains("a server is not started by this process any more")
    })
    .await;
    assert_eq!(metadata.count("operations").await, 1, "nothing was begun");
    let free = "update leases set until = now() where resource in (select id from hosts)";
    metadata.execute(free).await;
    recovered(&one, &metadata, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_supervisor_does_not_act_when_it_wakes_up() {
    let mut one = Howdah::new(options().await);
    one.start("supervision.before_recover=1*sleep(1500)").await;
    one.instance("orders").await;
    let _two = Howdah::serve(on_host_of(&one)).await;
    let metadata = Metadata::of(&one).await;
    kill_server(&one);
    signal(one.pid(), "STOP");
    recovered(&one, &metadata, 1).await;
    signal(one.pid(), "CONT");
    eventually("it finds out", async || {
        one.log().contains(SUPERVISES_NO_MORE)
    })
    .await;
    kill_server(&one);
    recovered(&one, &metadata, 2).await;
    assert_eq!(metadata.count("operations").await, 3);
}

/// A database with a table to follow.
async fn followed(howdah: &Howdah) -> (Connection, pg::Client) {
    howdah.instance("orders").await;
    let connection = howdah.database("orders", "shop").await;
    run_sql(
        &connection,
        "create table items (id int primary key, name text)",
    );
    let admin = superuser(howdah, "orders", "shop").await;
    (connection, admin)
}

/// Publications and slots that subscriptions have made.
async fn made(admin: &pg::Client) -> i64 {
    let sql = "select (select count(*) from pg_publication where pubname ~ '^howdah_tmp')
        + (select count(*) from pg_replication_slots)";
    admin.query_one(sql, &[]).await.unwrap().get(0)
}

/// As when its process gave no sign of life for a minute.
async fn expire(metadata: &Metadata) {
    let expired = "update leases set until = now() - interval '1 second'
        where resource in (select uid from subscriptions)";
    metadata.execute(expired).await;
}

async fn swept(metadata: &Metadata, admin: &pg::Client) {
    eventually("it is swept", async || {
        metadata.count("subscriptions").await == 0 && made(admin).await == 0
    })
    .await;
    let left =
        "leases where resource not in (select id from hosts) and resource::text not like '0000%'";
    assert_eq!(metadata.count(left).await, 0);
}

async fn end(stream: &mut Streaming<ChangeBatch>) -> tonic::Status {
    loop {
        if let Err(status) = stream.message().await.map(Option::unwrap) {
            return status;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_of_a_dead_process_are_swept_by_another_one_of_its_host() {
    let mut one = serve().await;
    let (connection, admin) = followed(&one).await;
    let stream = subscribe(&one, &connection).await;
    assert_eq!(made(&admin).await, 2);
    let elsewhere = Howdah::serve(beside(&one)).await;
    let two = Howdah::serve(on_host_of(&one)).await;
    let metadata = Metadata::of(&one).await;
    one.kill().await;
    drop(stream);
    expire(&metadata).await;
    swept(&metadata, &admin).await;
    let cannot = "cannot sweep a subscription";
    assert!(!elsewhere.log().contains(cannot) && !two.log().contains(cannot));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_frozen_ends_a_subscription_that_was_swept() {
    let one = serve().await;
    let (connection, admin) = followed(&one).await;
    let mut stream = subscribe(&one, &connection).await;
    let two = Howdah::serve(on_host_of(&one)).await;
    let metadata = Metadata::of(&two).await;
    signal(one.pid(), "STOP");
    expire(&metadata).await;
    swept(&metadata, &admin).await;
    signal(one.pid(), "CONT");
    let ended = tokio::time::timeout(super::rig::PATIENCE, end(&mut stream)).await;
    ended.expect("it ends");
    assert_eq!(
        (metadata.count("subscriptions").await, made(&admin).await),
        (0, 0)
    );
}

/// The lease of a stream whose server still answers is taken: the stream ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_ends_when_its_lease_is_lost() {
    let one = serve().await;
    let (connection, _admin) = followed(&one).await;
    let mut stream = subscribe(&one, &connection).await;
    let metadata = Metadata::of(&one).await;
    let taken = "update leases set token = nextval('lease_tokens'), worker = gen_random_uuid(),
        until = now() + interval '1 hour' where resource in (select uid from subscriptions)";
    metadata.execute(taken).await;
    let ended = tokio::time::timeout(super::rig::PATIENCE, end(&mut stream)).await;
    let status = ended.expect("it ends");
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("subscribe again"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_for_a_subscription_that_was_swept() {
    let mut one = serve().await;
    let (connection, admin) = followed(&one).await;
    one.stop().await;
    one.start("subscription.before_confirm=1*sleep(1500)").await;
    let metadata = Metadata::of(&one).await;
    let mut client = one.streams().await;
    let request = SubscribeRequest {
        instance: instance_name("orders"),
        database: connection.database.clone(),
        tables: vec!["public.items".into()],
        ..SubscribeRequest::default()
    };
    let answer = tokio::spawn(async move { client.subscribe(request).await });
    let sessions = "select count(*) from pg_stat_activity where application_name ~ '^howdah_tmp'";
    eventually("it is connected", async || {
        admin
            .query_one(sessions, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 1
    })
    .await;
    signal(one.pid(), "STOP");
    let two = Howdah::serve(on_host_of(&one)).await;
    expire(&metadata).await;
    swept(&metadata, &admin).await;
    signal(one.pid(), "CONT");
    let answer = answer.await.unwrap();
    let status = refused(answer, tonic::Code::Unavailable, "SERVER_UNAVAILABLE");
    assert!(status.message().contains("subscribe again"), "{status}");
    assert_eq!(made(&admin).await, 0);
    drop(two);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_there_while_one_of_its_processes_is() {
    let mut one = serve().await;
    one.instance("orders").await;
    let two = Howdah::serve(on_host_of(&one)).await;
    let other = Howdah::serve(beside(&one)).await;
    let metadata = Metadata::of(&one).await;
    let listens = format!("processes where '{}' like '%' || endpoint", two.endpoint());
    assert_eq!(metadata.count(&listens).await, 1);
    let version = env!("CARGO_PKG_VERSION");
    let same = format!("processes where version = '{version}' and start_time < seen_time");
    assert_eq!(metadata.count(&same).await, 3);
    one.kill().await;
    let age = "update processes set seen_time = now() - interval '2 days'
        where seen_time = (select min(seen_time) from processes)";
    eventually("the dead one is the oldest", async || {
        metadata
            .count("processes where seen_time < now() - interval '3 seconds'")
            .await
            == 1
    })
    .await;
    metadata.execute(age).await;
    assert_eq!(metadata.count("hosts_gone").await, 0);
    let request = howdah::pb::v1::StopInstanceRequest {
        name: instance_name("orders"),
        ..howdah::pb::v1::StopInstanceRequest::default()
    };
    let stopped = other.instances().await.stop_instance(request).await;
    other.wait(stopped.unwrap().get_ref()).await;
    // It is not needed to know since when the host is silent.
    eventually("the dead one is forgotten", async || {
        metadata.count("processes").await == 2
    })
    .await;
}

/// A clock that was far ahead is set right: who has died cannot hold a lease until then.
#[tokio::test(flavor = "multi_thread")]
async fn leases_far_ahead_end_when_the_clock_was_set_back() {
    let mut howdah = Howdah::serve(patient().await).await;
    howdah.instance("orders").await;
    howdah.stop().await;
    let metadata = Metadata::of(&howdah).await;
    let ahead = "update leases set until = now() + interval '2 days', worker = gen_random_uuid()";
    metadata.execute(ahead).await;
    let before = howdah.log().matches(SUPERVISES).count();
    howdah.start("").await;
    eventually("it supervises", async || {
        howdah.log().matches(SUPERVISES).count() > before
    })
    .await;
    assert!(
        howdah
            .log()
            .contains("the metadata database's clock was set back")
    );
    // One that is only long is left alone: an operation's lease may be an hour.
    howdah.stop().await;
    let long = "update leases set until = now() + interval '1 hour', worker = gen_random_uuid()";
    metadata.execute(long).await;
    howdah.start("").await;
    eventually("it stands by", async || howdah.log().contains("serving")).await;
    assert_eq!(
        metadata
            .count("leases where until > now() + interval '50 minutes'")
            .await,
        2
    );
}

/// An owner may have the sessions in the database run as another role.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_of_the_database_is_not_that_of_howdah() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let shop = howdah.database("orders", "shop").await;
    // Not of that role, which could not publish it.
    let admin = superuser(&howdah, "orders", "shop").await;
    let table = "create table public.items (id int primary key)";
    admin.batch_execute(table).await.unwrap();
    run_sql(&shop, "alter database shop set role = shop_user");
    let mut stream = subscribe(&howdah, &shop).await;
    let insert = "insert into public.items values (1)";
    admin.batch_execute(insert).await.unwrap();
    super::rig::next_row(&mut stream).await;
    drop(stream);
    let request = howdah::pb::v1::DeleteDatabaseRequest {
        name: format!("{}/databases/shop", instance_name("orders")),
        force: true,
        ..Default::default()
    };
    let accepted = howdah.databases().await.delete_database(request).await;
    let done = howdah.wait(accepted.unwrap().get_ref()).await;
    assert!(crate::soak::crash::world::is_success(&done), "{done:?}");
}
