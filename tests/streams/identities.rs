//! Following a table must never make production's statements fail.

use std::time::{Duration, Instant};

use super::rig::Rig;

#[tokio::test]
async fn a_table_without_identity_keeps_its_updates_and_shows_its_inserts() {
    let rig = Rig::new().await;
    rig.run(
        "create table loose (id int, v text); create table items (id int primary key);
         create table silent (id int primary key); alter table silent replica identity nothing;
         create table later (id int, constraint k primary key (id) deferrable)",
    )
    .await;
    let mut subscriber = rig.follow("loose items silent later").await;
    rig.run(
        "insert into loose values (1, 'a'); update loose set v = 'b'; delete from loose;
         insert into silent values (1); update silent set id = 2; delete from silent;
         insert into later values (1); update later set id = 2; delete from later;
         insert into items values (1); update items set id = 2; truncate loose",
    )
    .await;
    assert_eq!(
        subscriber.told(1).await,
        [
            "schema public.loose(id,v) default key() inserts",
            "insert loose -> (1,a)",
            "schema public.silent(id) nothing key(id) inserts",
            "insert silent -> (1) silent:1",
            "schema public.later(id) default key(id) inserts",
            "insert later -> (1) later:1",
            "schema public.items(id*) default key(id)",
            "insert items -> (1) items:1",
            "update items (1) -> (2) items:2",
            "truncate loose cascade=false restart=false",
        ]
    );
}

/// Retries a statement until the server takes it; how long that took.
async fn accepted(rig: &Rig<'_>, sql: &str) -> Duration {
    let started = Instant::now();
    while let Err(error) = rig.sql.batch_execute(sql).await {
        let text = format!("{error:?}");
        assert!(text.contains("does not have a replica identity"), "{text}");
        assert!(started.elapsed() < Duration::from_secs(20), "{sql}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    started.elapsed()
}

#[tokio::test]
async fn updates_work_again_soon_after_a_key_was_dropped() {
    let rig = Rig::new().await;
    rig.run("create table t (id int, v text, constraint k primary key (id)); create table other (id int primary key)")
        .await;
    let mut subscriber = rig.follow("t other").await;
    rig.run("insert into t values (1, 'a')").await;
    rig.run("alter table t drop constraint k").await;
    let took = accepted(&rig, "update t set v = 'b'").await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    rig.run("insert into t values (2, 'c'); update other set id = 1; insert into other values (1)")
        .await;
    let told = subscriber.told(2).await;
    assert_eq!(told[1], "insert t -> (1,a) t:1");
    assert_eq!(
        told[2..],
        [
            "schema public.t(id,v) default key() inserts",
            "insert t -> (2,c)",
            "schema public.other(id*) default key(id)",
            "insert other -> (1) other:1",
        ]
    );
}

#[tokio::test]
async fn updates_work_again_when_a_key_is_dropped_while_the_slot_waits() {
    let rig = Rig::new().await;
    rig.run("create table t (id int, v text, constraint k primary key (id)); create table other (id int)")
        .await;
    rig.run("insert into t values (1, 'a')").await;
    let writer = rig.session().await;
    let open = "begin; insert into other values (1)";
    writer.batch_execute(open).await.unwrap();
    let mut subscriber = rig.try_subscribe(rig.impatient("t")).await.unwrap();
    assert!(!subscriber.batch().await.unwrap().waiting_for.is_empty());
    rig.run("alter table t drop constraint k").await;
    accepted(&rig, "update t set v = 'b'").await;
    assert!(!subscriber.batch().await.unwrap().waiting_for.is_empty());
    writer.batch_execute("commit").await.unwrap();
    subscriber.ready().await;
    rig.run("insert into t values (2, 'c')").await;
    assert_eq!(subscriber.told(1).await[1..], ["insert t -> (2,c)"]);
}

#[tokio::test]
async fn updates_work_again_when_a_parent_of_others_lost_its_key() {
    let rig = Rig::new().await;
    rig.run(
        "create table parent (id int, v text, constraint k primary key (id));
         create table child () inherits (parent); insert into parent values (1, 'a')",
    )
    .await;
    let mut subscriber = rig.follow("parent").await;
    rig.run("alter table only parent drop constraint k").await;
    accepted(&rig, "update parent set v = 'b'").await;
    rig.run("insert into child values (2, 'c'); insert into parent values (3, 'd')")
        .await;
    let told = subscriber.told(1).await;
    assert_eq!(told.last().unwrap(), "insert parent -> (3,d)");
}

#[tokio::test]
async fn an_odd_partition_limits_no_other() {
    let rig = Rig::new().await;
    rig.run(
        "create table root (id int not null, v text) partition by range (id);
         create table one partition of root for values from (0) to (10);
         alter table one add primary key (id);
         create table odd (id int not null, v text)",
    )
    .await;
    let mut subscriber = rig.follow("root").await;
    rig.run("insert into root values (1, 'a'); update root set v = 'b'")
        .await;
    rig.run("alter table root attach partition odd for values from (10) to (20)")
        .await;
    let took = accepted(&rig, "update root set v = 'c'").await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    subscriber
        .marked("partitions_attached root(public.odd)")
        .await;
    rig.run("insert into root values (12, 'd')").await;
    rig.run("update root set v = 'e'").await;
    assert_eq!(
        subscriber.told(4).await,
        [
            "schema public.root(id*,v) default key(id) partition \"public\".\"one\"",
            "insert root -> (1,a) root:1",
            "update root -> (1,b) root:1",
            "update root -> (1,c) root:1",
            "schema public.root(id,v) default key() partition \"public\".\"odd\" inserts",
            "insert root -> (12,d)",
            "update root -> (1,e) root:1",
        ]
    );
}

#[tokio::test]
async fn a_publication_of_the_application_is_not_relied_on() {
    let rig = Rig::new().await;
    rig.run(
        "create table a (id int primary key); create table b (id int primary key);
         create publication mine for table a, b",
    )
    .await;
    let mut subscriber = rig.follow("a").await;
    rig.run("insert into b values (1); insert into a values (1)")
        .await;
    rig.run("alter publication mine drop table a").await;
    rig.run("insert into a values (2); truncate a, b").await;
    assert_eq!(
        subscriber.told(2).await,
        [
            "schema public.a(id*) default key(id)",
            "insert a -> (1) a:1",
            "insert a -> (2) a:2",
            "truncate a cascade=false restart=false",
        ]
    );
}

#[tokio::test]
async fn a_publication_that_would_hide_something_is_not_used() {
    let rig = Rig::new().await;
    rig.run(
        "create table a (id int primary key, v text);
         create table m (id int primary key) partition by range (id);
         create table leaf partition of m for values from (0) to (10);
         create publication inserts for table a with (publish = 'insert');
         create publication some_rows for table a where (id > 1);
         create publication some_columns for table a (id);
         create publication roots for all tables with (publish_via_partition_root = true)",
    )
    .await;
    let mut leaf = rig.follow("leaf").await;
    rig.run("insert into m values (1)").await;
    assert_eq!(leaf.told(1).await[1..], ["insert leaf -> (1) leaf:1"]);
    rig.run("drop publication roots").await;
    let mut subscriber = rig.follow("a").await;
    rig.run("insert into a values (1, 'x'); update a set v = 'y'")
        .await;
    assert_eq!(
        subscriber.told(1).await[1..],
        ["insert a -> (1,x) a:1", "update a -> (1,y) a:1"]
    );
}

#[tokio::test]
async fn a_named_publication_is_followed_as_it_is() {
    let rig = Rig::new().await;
    rig.run(
        "create table a (id int primary key, v text, w text);
         create table b (id int primary key);
         create publication mine for table a (id, v) where (id > 1), b with (publish = 'insert, delete')",
    )
    .await;
    let mut request = rig.request("");
    request.publication = "mine".into();
    let mut subscriber = rig.subscribe(request).await;
    rig.run(
        "insert into a values (1, 'x', 'x'), (2, 'y', 'y'); insert into b values (1);
             update b set id = 2; delete from b",
    )
    .await;
    assert_eq!(
        subscriber.told(1).await,
        [
            "schema public.a(id*,v) default key(id)",
            "insert a -> (2,y) a:2",
            "schema public.b(id*) default key(id)",
            "insert b -> (1) b:1",
            "delete b (2) b:2",
        ]
    );
    let schema = subscriber.schemas.values().find(|it| it.table == "a");
    assert_eq!(schema.unwrap().omitted_columns, ["w"]);
}
