//! Nothing of a subscription stays on the server, however it ends.

use howdah::pb::v1::SubscribeRequest;
use tonic::Code;

use super::rig::{Rig, instance, shared};
use crate::support::howdah::{Howdah, Options, eventually, reason};

const T: &str = "create table t (id int primary key, v text)";

#[tokio::test]
async fn nothing_stays_when_the_client_goes() {
    let rig = Rig::new().await;
    rig.run(T).await;
    let subscriber = rig.follow("t").await;
    assert_eq!(
        rig.leftovers().await.len(),
        5,
        "{:?}",
        rig.leftovers().await
    );
    drop(subscriber);
    rig.clean().await;
}

#[tokio::test]
async fn nothing_stays_when_the_client_goes_while_the_slot_waits() {
    let rig = Rig::new().await;
    rig.run(T).await;
    let writer = rig.session().await;
    writer
        .batch_execute("begin; insert into t values (1)")
        .await
        .unwrap();
    let mut subscriber = rig.try_subscribe(rig.impatient("t")).await.unwrap();
    assert!(!subscriber.batch().await.unwrap().waiting_for.is_empty());
    drop(subscriber);
    // The transaction that the slot waits for is still there.
    rig.clean().await;
    writer.batch_execute("commit").await.unwrap();
}

#[tokio::test]
async fn nothing_stays_when_the_client_goes_while_the_publication_waits() {
    let rig = Rig::new().await;
    rig.run(T).await;
    let locker = rig.session().await;
    let lock = "begin; lock table t in access exclusive mode";
    locker.batch_execute(lock).await.unwrap();
    let howdah = shared().await;
    let mut client = howdah.streams().await;
    let request = rig.request("t");
    let call = tokio::task::spawn(async move { client.subscribe(request).await.is_ok() });
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
        and datname = current_database() and query ~ 'create publication'";
    eventually("the publication waits", || async {
        rig.value::<i64>(waiting).await == 1
    })
    .await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    locker.batch_execute("commit").await.unwrap();
    let recorded = "select count(*) from pg_stat_activity where datname = current_database()
        and application_name ~ '^howdah'";
    eventually("its session ends", || async {
        rig.value::<i64>(recorded).await == 0
    })
    .await;
    rig.clean().await;
}

/// Who looks there by its short name runs what the database's owner wants, as superuser.
#[tokio::test]
async fn what_the_owner_put_in_the_search_path_is_not_run() {
    let rig = Rig::new().await;
    rig.run(T).await;
    rig.run(
        "create schema evil; create sequence evil.caught;
         create view evil.pg_stat_activity as
            select *, nextval('evil.caught') from pg_catalog.pg_stat_activity;
         create view evil.pg_publication as
            select *, nextval('evil.caught') from pg_catalog.pg_publication;
         create function evil.count() returns bigint language sql
            as $$select nextval('evil.caught')$$",
    )
    .await;
    let set = "alter database \"{}\" set search_path = evil, pg_catalog";
    rig.run(&set.replace("{}", &rig.database)).await;
    drop(rig.follow("t").await);
    rig.clean().await;
    let caught = "select is_called from evil.caught";
    assert!(!rig.value::<bool>(caught).await);
}

#[tokio::test]
async fn nothing_stays_when_howdah_is_killed() {
    let mut howdah = Howdah::serve(Options::external().await).await;
    instance(&howdah, "killed").await;
    let database = {
        let rig = Rig::on(&howdah, "killed", "").await;
        rig.run(T).await;
        let subscriber = rig.follow("t").await;
        // One whose slot is still waited for: its walsender would not notice.
        let writer = rig.session().await;
        let open = "begin; insert into t values (1)";
        writer.batch_execute(open).await.unwrap();
        let second = rig.try_subscribe(rig.request("t")).await.unwrap();
        eventually("both slots are there", || async {
            let slots = "select count(*) from pg_replication_slots";
            rig.value::<i64>(slots).await == 2
        })
        .await;
        let session = super::rig::admin(&howdah, "killed", &rig.database).await;
        let database = rig.database.clone();
        drop((rig, subscriber, second));
        howdah.kill().await;
        let publications = "select count(*) from pg_publication";
        let left: i64 = session.query_one(publications, &[]).await.unwrap().get(0);
        assert!(left >= 1);
        howdah.start("").await;
        eventually("what the dead one left is swept", || async {
            let left = "select (select count(*) from pg_publication)
                + (select count(*) from pg_replication_slots)";
            session.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0
        })
        .await;
        writer.batch_execute("commit").await.unwrap();
        database
    };
    let request = SubscribeRequest {
        instance: "projects/default/instances/killed".into(),
        database,
        tables: vec!["t".into()],
        ..SubscribeRequest::default()
    };
    let stream = howdah.streams().await.subscribe(request).await.unwrap();
    super::subscriber::Subscriber::new(stream.into_inner())
        .ready()
        .await;
}

#[tokio::test]
async fn when_slots_are_used_up_that_is_said_and_nothing_stays() {
    let howdah = shared().await;
    instance(howdah, "slots").await;
    let rig = Rig::on(howdah, "slots", "").await;
    rig.run(T).await;
    rig.run(
        "select pg_create_physical_replication_slot('s' || i)
             from generate_series(1, current_setting('max_replication_slots')::int - 1) i",
    )
    .await;
    let subscriber = rig.follow("t").await;
    let status = rig.refusal(rig.request("t")).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(reason(&status), "SLOTS_EXHAUSTED");
    drop(subscriber);
    rig.clean().await;
    // There is room again.
    rig.follow("t").await;
}
