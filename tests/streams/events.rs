//! What happens on the server, in order.

use howdah::pb::v1::{Schema, change::Event};

use super::rig::Rig;

const ITEMS: &str = "create table items (id int primary key, name text)";

#[tokio::test]
async fn each_kind_of_change_arrives() {
    let rig = Rig::new().await;
    rig.run(ITEMS).await;
    let mut subscriber = rig.follow("items").await;
    rig.run("insert into items values (1, 'a'), (2, null)")
        .await;
    rig.run("update items set name = 'b' where id = 1").await;
    rig.run("update items set id = 3 where id = 2").await;
    rig.run("delete from items where id = 1").await;
    rig.run("truncate items restart identity cascade").await;
    rig.run("select pg_logical_emit_message(true, 'p', 'inside')")
        .await;
    let told = subscriber.told(6).await;
    assert_eq!(
        told,
        [
            "schema public.items(id*,name) default key(id)",
            "insert items -> (1,a) items:1",
            "insert items -> (2,NULL) items:2",
            "update items -> (1,b) items:1",
            "update items (2,ABSENT) -> (3,NULL) items:3",
            "delete items (1,ABSENT) items:1",
            "truncate items cascade=true restart=true",
            "message p inside in",
        ]
    );
}

#[tokio::test]
async fn transactions_say_who_they_are_and_count_their_events() {
    let rig = Rig::new().await;
    rig.run(ITEMS).await;
    let mut subscriber = rig.follow("items").await;
    let sql = "insert into items values (1, 'a'), (2, 'b'); truncate items;
        insert into items values (3, 'c'); select pg_logical_emit_message(true, 'p', 'm');";
    rig.run("begin").await;
    rig.run(sql).await;
    let xid: String = rig.value("select pg_current_xact_id()::text").await;
    rig.run("commit").await;
    let changes = subscriber.transactions(1).await;
    let ordinals: Vec<u64> = changes.iter().map(|change| change.ordinal).collect();
    assert_eq!(ordinals, [0, 0, 1, 2, 3, 4, 5, 0]);
    let (Some(Event::Begin(begin)), Some(Event::Commit(commit))) =
        (&changes[0].event, &changes[7].event)
    else {
        panic!("{changes:?}");
    };
    assert_eq!((begin.xid, commit.xid), (commit.xid, xid.parse().unwrap()));
    assert_eq!(begin.commit_time, commit.commit_time);
    assert_eq!(commit.origin, "");
    let now: i64 = rig.value("select extract(epoch from now())::bigint").await;
    assert!((now - begin.commit_time.unwrap().seconds).abs() < 60);
}

#[tokio::test]
async fn a_changed_table_is_told_before_its_first_row_and_only_then() {
    let rig = Rig::new().await;
    rig.run(ITEMS).await;
    let mut subscriber = rig.follow("items").await;
    rig.run("insert into items values (1, 'a')").await;
    rig.run("alter table items add price int default 5").await;
    rig.run("insert into items values (2, 'b')").await;
    // What does not change the shape is no news.
    rig.run("create index on items (name); analyze items; comment on table items is 'x'")
        .await;
    rig.run("insert into items values (3, 'c')").await;
    rig.run(
        "begin; insert into items values (4, 'd'); alter table items drop name;
             insert into items values (5, 7); commit",
    )
    .await;
    rig.run("alter table items rename to goods; insert into goods values (6, 8)")
        .await;
    rig.run("alter table goods rename id to number; insert into goods values (7, 9)")
        .await;
    let told = subscriber.told(6).await;
    assert_eq!(
        told,
        [
            "schema public.items(id*,name) default key(id)",
            "insert items -> (1,a) items:1",
            "schema public.items(id*,name,price) default key(id)",
            "insert items -> (2,b,5) items:2",
            "insert items -> (3,c,5) items:3",
            "insert items -> (4,d,5) items:4",
            "schema public.items(id*,price) default key(id)",
            "insert items -> (5,7) items:5",
            "schema public.goods(id*,price) default key(id)",
            "insert goods -> (6,8) goods:6",
            "schema public.goods(number*,price) default key(number)",
            "insert goods -> (7,9) goods:7",
        ]
    );
}

#[tokio::test]
async fn transactions_come_whole_and_in_commit_order() {
    let rig = Rig::new().await;
    rig.run(ITEMS).await;
    rig.run("create table orders (id int primary key, item int references items)")
        .await;
    let mut subscriber = rig.follow("items orders").await;
    let other = rig.session().await;
    rig.run("begin; insert into items values (1, 'late')").await;
    other
        .batch_execute(
            "begin; insert into items values (2, 'first'); insert into orders values (1, 2)",
        )
        .await
        .unwrap();
    rig.run("insert into orders values (2, 1); update items set name = 'later' where id = 1")
        .await;
    other
        .batch_execute("update items set name = 'done' where id = 2; commit")
        .await
        .unwrap();
    rig.run("commit").await;
    let told: Vec<String> = subscriber.told(2).await;
    let rows: Vec<&String> = told
        .iter()
        .filter(|told| !told.starts_with("schema"))
        .collect();
    assert_eq!(
        rows,
        [
            "insert items -> (2,first) items:2",
            "insert orders -> (1,2) orders:1",
            "update items -> (2,done) items:2",
            "insert items -> (1,late) items:1",
            "insert orders -> (2,1) orders:2",
            "update items -> (1,later) items:1",
        ]
    );
}

#[tokio::test]
async fn what_was_rolled_back_is_not_seen() {
    let rig = Rig::new().await;
    rig.run(ITEMS).await;
    rig.run("create table unrelated (id int primary key)").await;
    let mut subscriber = rig.follow("items").await;
    rig.run("begin; insert into items values (1, 'x'); rollback")
        .await;
    rig.run(
        "begin; insert into items values (2, 'kept'); savepoint a;
         insert into items values (3, 'x'); savepoint b; insert into items values (4, 'x');
         rollback to a; insert into items values (5, 'kept'); savepoint c;
         insert into items values (6, 'kept'); release c;
         select pg_logical_emit_message(true, 'p', 'kept'); savepoint d;
         select pg_logical_emit_message(true, 'p', 'x'); rollback to d; commit",
    )
    .await;
    // Empty ones, and those of tables that nobody asked for.
    rig.run("begin; select pg_current_xact_id(); commit").await;
    rig.run("insert into unrelated values (1)").await;
    rig.run("begin; select pg_logical_emit_message(false, 'p', 'sent all the same'); rollback")
        .await;
    rig.run("insert into items values (7, 'last')").await;
    let mut changes = Vec::new();
    while changes
        .last()
        .is_none_or(|last| last != "insert items -> (7,last) items:7")
    {
        let change = subscriber.change().await;
        changes.extend(subscriber.tell(&change));
    }
    assert_eq!(
        changes,
        [
            "schema public.items(id*,name) default key(id)",
            "insert items -> (2,kept) items:2",
            "insert items -> (5,kept) items:5",
            "insert items -> (6,kept) items:6",
            "message p kept in",
            "message p sent all the same out",
            "insert items -> (7,last) items:7",
        ]
    );
}

#[tokio::test]
async fn one_truncate_is_one_event_with_all_its_tables() {
    let rig = Rig::new().await;
    rig.run(
        "create table a (id int primary key); create table b (id int primary key);
             create table c (id int primary key)",
    )
    .await;
    let mut subscriber = rig.follow("a b").await;
    rig.run("truncate a, b, c").await;
    rig.run("truncate c").await;
    rig.run("truncate b restart identity").await;
    let told = subscriber.told(2).await;
    let truncates: Vec<_> = told
        .iter()
        .filter(|told| told.starts_with("truncate"))
        .collect();
    assert_eq!(
        truncates,
        [
            "truncate a,b cascade=false restart=false",
            "truncate b cascade=false restart=true",
        ]
    );
}

#[tokio::test]
async fn origins_are_named() {
    let rig = Rig::new().await;
    rig.run(ITEMS).await;
    let origin = format!("from_{}", rig.database);
    let mut subscriber = rig.follow("items").await;
    rig.run(&format!(
        "select pg_replication_origin_create('{origin}'); select pg_replication_origin_session_setup('{origin}')"
    ))
    .await;
    rig.run("insert into items values (1, 'a')").await;
    rig.run("select pg_replication_origin_session_reset()")
        .await;
    rig.run("insert into items values (2, 'a')").await;
    rig.run(&format!("select pg_replication_origin_drop('{origin}')"))
        .await;
    let changes = subscriber.transactions(2).await;
    let commit = |change: &super::subscriber::Numbered| match &change.event {
        Some(Event::Commit(commit)) => Some(commit.origin.clone()),
        _ => None,
    };
    let origins: Vec<String> = changes.iter().filter_map(commit).collect();
    assert_eq!(origins, [origin, String::new()]);
}

#[tokio::test]
async fn keys_come_from_the_request_the_primary_key_or_the_identity() {
    let rig = Rig::new().await;
    rig.run(
        "create table orders (id int, line int, tenant text, primary key (line, id));
         create table unique_only (a int, b int not null unique);
         alter table unique_only replica identity using index unique_only_b_key;
         create table whole (a int, b int); alter table whole replica identity full;
         create table nothing (a int)",
    )
    .await;
    let tables = "orders unique_only whole nothing";
    let mut subscriber = rig.follow(tables).await;
    let mut request = rig.request(tables);
    request.key_columns = vec!["tenant".into(), "id".into()];
    let mut chosen = rig.subscribe(request).await;
    rig.run("insert into orders values (1001, 5, 'acme')").await;
    rig.run("insert into unique_only values (null, 7); update unique_only set a = 1, b = 8; delete from unique_only")
        .await;
    rig.run("insert into whole values (1, 2); update whole set b = 3; delete from whole")
        .await;
    rig.run("insert into nothing values (1)").await;
    let told = subscriber.told(4).await;
    assert_eq!(
        told,
        [
            "schema public.orders(id*,line*,tenant) default key(line,id)",
            "insert orders -> (1001,5,acme) orders:5_1001",
            "schema public.unique_only(a,b*) index key(b)",
            "insert unique_only -> (NULL,7) unique_only:7",
            "update unique_only (ABSENT,7) -> (1,8) unique_only:8",
            "delete unique_only (ABSENT,8) unique_only:8",
            "schema public.whole(a*,b*) full key()",
            "insert whole -> (1,2)",
            "update whole (1,2) -> (1,3)",
            "delete whole (1,3)",
            "schema public.nothing(a) default key()",
            "insert nothing -> (1)",
        ]
    );
    let told = chosen.told(4).await;
    assert_eq!(
        told[..3],
        [
            "schema public.orders(id*,line*,tenant) default key(tenant,id)",
            "insert orders -> (1001,5,acme) orders:acme_1001",
            "schema public.unique_only(a,b*) index key(b)",
        ]
    );
}

#[tokio::test]
async fn a_new_primary_key_is_a_new_schema() {
    let rig = Rig::new().await;
    rig.run("create table t (a int not null, b int not null, primary key (a)); alter table t replica identity full")
        .await;
    let mut subscriber = rig.follow("t").await;
    rig.run("insert into t values (1, 2)").await;
    let schema = |subscriber: &super::subscriber::Subscriber| -> Schema {
        let newest = subscriber.schemas.keys().max().unwrap();
        subscriber.schemas[newest].clone()
    };
    subscriber.told(1).await;
    assert_eq!(schema(&subscriber).key_columns, ["a"]);
    rig.run(
        "begin; alter table t drop constraint t_pkey; alter table t add primary key (b); commit",
    )
    .await;
    rig.run("insert into t values (3, 4)").await;
    let told = subscriber.told(1).await;
    assert_eq!(
        told,
        [
            "schema public.t(a*,b*) full key(b)",
            "insert t -> (3,4) t:4"
        ]
    );
}
