//! What the log does not say is said all the same, and nothing is lost in silence. Each test runs
//! on the oldest and the newest major that CI has.

use howdah::pb::v1::{OnChange, SubscribeRequest, schema::KeySource};
use tonic::{Code, Status};

use super::{
    rig::{Rig, majors},
    subscriber::Subscriber,
};
use crate::support::howdah::reason;

/// A fresh database on each major.
pub async fn rigs() -> Vec<Rig<'static>> {
    let (howdah, instances) = majors().await;
    let mut rigs = Vec::new();
    for instance in instances {
        rigs.push(Rig::on(howdah, instance, "").await);
    }
    rigs
}

fn is_18(rig: &Rig<'_>) -> bool {
    rig.instance == "v18"
}

pub fn check(status: &Status, why: &str) {
    let is = (status.code(), reason(status));
    assert_eq!(is, (Code::FailedPrecondition, why.to_owned()), "{status:?}");
}

fn named(rig: &Rig<'_>, publication: &str) -> SubscribeRequest {
    SubscribeRequest {
        publication: publication.into(),
        ..rig.request("")
    }
}

fn following(rig: &Rig<'_>, tables: &str) -> SubscribeRequest {
    SubscribeRequest {
        on_change: OnChange::Follow.into(),
        ..rig.impatient(tables)
    }
}

pub async fn row(subscriber: &mut Subscriber) -> String {
    subscriber.told(1).await.pop().unwrap()
}

#[tokio::test]
async fn a_table_that_regains_its_key_has_updates_again() {
    for rig in rigs().await {
        rig.run("create table t (id int not null, v text, constraint k primary key (id)); create table other (id int primary key)")
            .await;
        let mut subscriber = rig.subscribe(rig.impatient("t other")).await;
        rig.run("insert into t values (1, 'a')").await;
        assert_eq!(row(&mut subscriber).await, "insert t -> (1,a) t:1");
        rig.run("alter table t drop constraint k").await;
        subscriber.marked("published_events_changed t()").await;
        rig.run("update t set v = 'unseen'; insert into t values (2, 'b')")
            .await;
        assert_eq!(
            subscriber.told(1).await,
            [
                "schema public.t(id,v) default key() inserts",
                "insert t -> (2,b)"
            ]
        );
        rig.run("alter table t add primary key (id)").await;
        subscriber.marked("published_events_changed t()").await;
        rig.run("update t set v = 'c' where id = 2").await;
        assert_eq!(
            subscriber.told(1).await,
            [
                "schema public.t(id*,v) default key(id)",
                "update t -> (2,c) t:2"
            ]
        );
    }
}

#[tokio::test]
async fn a_table_that_gets_an_identity_later_has_updates_from_then_on() {
    for rig in rigs().await {
        rig.run("create table t (id int, v text); create table other (id int)")
            .await;
        let mut subscriber = rig.subscribe(rig.impatient("t")).await;
        rig.run("insert into t values (1, 'a')").await;
        assert_eq!(row(&mut subscriber).await, "insert t -> (1,a)");
        // A transaction that is open when the events change is named.
        let open = rig.session().await;
        open.batch_execute("begin; insert into other values (1)")
            .await
            .unwrap();
        let xid = "select pg_current_xact_id()::text::int8";
        let xid: i64 = open.query_one(xid, &[]).await.unwrap().get(0);
        rig.run("alter table t replica identity full").await;
        let incomplete = loop {
            match subscriber.markers.pop_front() {
                Some(marker) if !marker.incomplete_xids.is_empty() => break marker,
                Some(_) => {}
                None => drop(subscriber.batch().await.unwrap()),
            }
        };
        assert_eq!(incomplete.kind().as_str_name(), "PUBLISHED_EVENTS_CHANGED");
        let xid = u32::try_from(xid).unwrap();
        assert!(incomplete.incomplete_xids.contains(&xid), "{incomplete:?}");
        open.batch_execute("commit").await.unwrap();
        rig.run("update t set v = 'c' where id = 1").await;
        assert_eq!(row(&mut subscriber).await, "update t (1,a) -> (1,c)");
    }
}

#[tokio::test]
async fn a_swap_by_rename_ends_the_stream_after_what_was_before() {
    for rig in rigs().await {
        rig.run("create table t (id int primary key); create table fresh (id int primary key)")
            .await;
        let mut subscriber = rig.subscribe(rig.impatient("t")).await;
        rig.run("insert into t values (1)").await;
        rig.run("begin; alter table t rename to old; alter table fresh rename to t; commit")
            .await;
        rig.run("insert into t values (2)").await;
        let status = subscriber.end().await;
        check(&status, "TABLE_REPLACED");
        assert!(status.message().contains("\"public\".\"t\""), "{status:?}");
        assert_eq!(row(&mut subscriber).await, "insert t -> (1) t:1");
        rig.clean().await;
    }
}

#[tokio::test]
async fn a_table_that_is_dropped_and_made_again_ends_the_stream() {
    for rig in rigs().await {
        rig.run("create table t (id int primary key)").await;
        let mut subscriber = rig.subscribe(rig.impatient("t")).await;
        rig.run("drop table t; create table t (id int primary key); insert into t values (1)")
            .await;
        check(&subscriber.end().await, "TABLE_REPLACED");
    }
}

#[tokio::test]
async fn the_new_table_of_a_name_is_followed_where_the_request_says_so() {
    for rig in rigs().await {
        rig.run("create table t (id int primary key, v text)").await;
        let mut subscriber = rig.subscribe(following(&rig, "t")).await;
        let oid = |name: &'static str| {
            let query = format!("select '{name}'::regclass::oid");
            async { rig.value::<u32>(Box::leak(query.into_boxed_str())).await }
        };
        let former = oid("t").await;
        rig.run("insert into t values (1, 'a')").await;
        rig.run("drop table t").await;
        rig.run("create table t (v text, id int primary key)").await;
        let marker = loop {
            match subscriber.markers.pop_front() {
                Some(marker) if marker.relation_oid != 0 => break marker,
                Some(dropped) => assert_eq!(dropped.former_oid, former),
                None => drop(subscriber.batch().await.unwrap()),
            }
        };
        assert_eq!(marker.kind().as_str_name(), "TABLE_REPLACED");
        assert_eq!(
            (marker.former_oid, marker.relation_oid),
            (former, oid("t").await)
        );
        assert!(marker.after_lsn < marker.before_lsn, "{marker:?}");
        rig.run("insert into t values ('b', 2)").await;
        assert_eq!(
            subscriber.told(2).await[2..],
            [
                "schema public.t(v,id*) default key(id)",
                "insert t -> (b,2) t:2"
            ]
        );
    }
}

#[tokio::test]
async fn a_named_publication_that_is_changed_ends_the_stream() {
    for rig in rigs().await {
        rig.run(
            "create table a (id int primary key); create table b (id int primary key);
             create publication mine for table a, b",
        )
        .await;
        for change in [
            "alter publication mine drop table b",
            "alter publication mine set table a where (id > 5)",
            "alter publication mine set table a (id)",
            "alter publication mine set (publish = 'insert')",
        ] {
            let mut request = named(&rig, "mine");
            request.heartbeat_interval = rig.impatient("").heartbeat_interval;
            let mut subscriber = rig.subscribe(request.clone()).await;
            request.on_change = OnChange::Follow.into();
            let mut patient = rig.subscribe(request).await;
            rig.run("insert into a values (7)").await;
            // The watch has looked at it once.
            subscriber.batch().await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
            rig.run(change).await;
            let status = subscriber.end().await;
            check(&status, "PUBLICATION_CHANGED");
            assert_eq!(row(&mut subscriber).await, "insert a -> (7) a:7");
            patient.marked("publication_changed ()").await;
            rig.run("delete from a").await;
        }
    }
}

#[tokio::test]
async fn keys_follow_the_log_and_not_the_present_catalog() {
    for rig in rigs().await {
        rig.run("create table t (id int primary key, other int not null, v text)")
            .await;
        let mut subscriber = rig.follow("t").await;
        // All of it is in the log before the stream asks the catalogs about the first row.
        rig.run(
            "begin; insert into t values (1, 10, 'a'); alter table t rename id to number;
             insert into t values (2, 20, 'b'); alter table t drop constraint t_pkey;
             alter table t add primary key (other); insert into t values (3, 30, 'c'); commit",
        )
        .await;
        assert_eq!(
            subscriber.told(1).await,
            [
                "schema public.t(id*,other,v) default key(id)",
                "insert t -> (1,10,a) t:1",
                "schema public.t(number*,other,v) default key(number)",
                "insert t -> (2,20,b) t:2",
                "schema public.t(number,other*,v) default key(other)",
                "insert t -> (3,30,c) t:30",
            ]
        );
        assert!(
            subscriber
                .schemas
                .values()
                .all(|schema| schema.key_source() == KeySource::Identity)
        );
    }
}

#[tokio::test]
async fn the_key_is_what_old_rows_have() {
    for rig in rigs().await {
        rig.run(
            "create table t (id int primary key, code text not null unique);
             alter table t replica identity using index t_code_key",
        )
        .await;
        let mut subscriber = rig.follow("t").await;
        rig.run("insert into t values (1, 'x')").await;
        rig.run("update t set id = 2").await;
        rig.run("delete from t").await;
        assert_eq!(
            subscriber.told(3).await,
            [
                "schema public.t(id,code*) index key(code)",
                "insert t -> (1,x) t:x",
                "update t -> (2,x) t:x",
                "delete t (ABSENT,x) t:x",
            ]
        );
    }
}

#[tokio::test]
async fn element_ids_tell_rows_apart() {
    for rig in rigs().await {
        rig.run(
            "create table pairs (a text, b text, primary key (a, b)); create schema s1;
             create table users (id int primary key); create table s1.users (id int primary key);
             create table \"s1.users\" (id int primary key)",
        )
        .await;
        let tables = "pairs users s1.users \"s1.users\"";
        let mut subscriber = rig.follow(tables).await;
        rig.run(
            "insert into pairs values ('a_b', 'c'), ('a', 'b_c'); insert into users values (1);
             insert into s1.users values (1); insert into \"s1.users\" values (1)",
        )
        .await;
        let rows: Vec<String> = subscriber.told(1).await;
        let ids: Vec<&str> = rows
            .iter()
            .filter(|row| row.starts_with("insert"))
            .map(|row| row.rsplit(' ').next().unwrap())
            .collect();
        assert_eq!(
            ids,
            [
                "pairs:a\\_b_c",
                "pairs:a_b\\_c",
                "users:1",
                "s1.users:1",
                "s1\\.users:1"
            ]
        );
    }
}

#[tokio::test]
async fn generated_columns_break_no_statement_and_are_published_or_named() {
    for rig in rigs().await {
        rig.run(
            "create table whole (id int, double int generated always as (id * 2) stored);
             alter table whole replica identity full;
             create table keyed (id int not null,
                double int not null generated always as (id * 2) stored, primary key (double))",
        )
        .await;
        let mut subscriber = rig.follow("whole keyed").await;
        rig.run(
            "insert into whole values (1); update whole set id = 2; delete from whole;
             insert into keyed values (1)",
        )
        .await;
        let told = subscriber.told(1).await;
        let omitted = |table: &str| {
            let mut schemas = subscriber.schemas.values();
            let schema = schemas.find(|schema| schema.table == table).unwrap();
            (
                schema.omitted_columns.join(","),
                schema.key_columns.join(","),
            )
        };
        if is_18(&rig) {
            assert!(
                told.contains(&"update whole (1,2) -> (2,4)".to_owned()),
                "{told:?}"
            );
            assert_eq!(omitted("whole"), (String::new(), String::new()));
            assert_eq!(omitted("keyed"), (String::new(), "double".into()));
            rig.run("update keyed set id = 3; delete from keyed").await;
            assert_eq!(
                subscriber.told(1).await,
                [
                    "update keyed (ABSENT,2) -> (3,6) keyed:6",
                    "delete keyed (ABSENT,6) keyed:6"
                ]
            );
            rig.run(
                "create table odd (id int, half int generated always as (id / 2) virtual);
                 alter table odd replica identity full",
            )
            .await;
            let mut odd = rig.follow("odd").await;
            rig.run("insert into odd values (4); update odd set id = 6; delete from odd")
                .await;
            assert_eq!(
                odd.told(1).await,
                [
                    "schema public.odd(id*) full key() inserts",
                    "insert odd -> (4)"
                ]
            );
            assert_eq!(
                odd.schemas.values().next().unwrap().omitted_columns,
                ["half"]
            );
        } else {
            assert!(
                told.contains(&"update whole (1) -> (2)".to_owned()),
                "{told:?}"
            );
            assert_eq!(omitted("whole"), ("double".into(), String::new()));
            // Without a column of the key a row has no id that is unique.
            assert_eq!(omitted("keyed"), ("double".into(), String::new()));
        }
    }
}

#[tokio::test]
async fn settings_of_the_database_hide_nothing_and_end_nothing() {
    for rig in rigs().await {
        rig.run("create table t (id int primary key); create publication mine for table t")
            .await;
        let mut settings = vec![
            "client_min_messages = error",
            "idle_session_timeout = '300ms'",
            "statement_timeout = '300ms'",
            "lock_timeout = '1ms'",
        ];
        if is_18(&rig) {
            settings.push("transaction_timeout = '300ms'");
        }
        for setting in settings {
            rig.run(&format!("alter database {} set {setting}", rig.database))
                .await;
        }
        let mut subscriber = rig.subscribe(rig.impatient("t")).await;
        let mut lost = rig.subscribe(named(&rig, "mine")).await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        rig.run("insert into t values (1)").await;
        assert_eq!(row(&mut subscriber).await, "insert t -> (1) t:1");
        rig.run("drop publication mine").await;
        rig.run("insert into t values (2)").await;
        check(&lost.end().await, "PUBLICATION_LOST");
    }
}

#[tokio::test]
async fn partitions_that_come_go_or_are_emptied_are_told() {
    for rig in rigs().await {
        rig.run(
            "create table m (id int primary key, v text) partition by range (id);
             create table m_1 partition of m for values from (0) to (10);
             create table m_2 partition of m for values from (10) to (20);
             create table apart (id int primary key, v text);
             insert into apart values (25, 'there'); insert into m values (1, 'a'), (11, 'b')",
        )
        .await;
        let mut subscriber = rig.subscribe(rig.impatient("m")).await;
        rig.run("truncate m_1").await;
        rig.run("truncate m").await;
        let truncates = subscriber.told(2).await;
        assert_eq!(
            truncates,
            [
                "schema public.m(id*,v) default key(id) partition \"public\".\"m_1\"",
                "truncate m cascade=false restart=false",
                "schema public.m(id*,v) default key(id) partition \"public\".\"m_2\"",
                "truncate m,m cascade=false restart=false",
            ]
        );
        rig.run("alter table m attach partition apart for values from (20) to (30)")
            .await;
        subscriber
            .marked("partitions_attached m(public.apart)")
            .await;
        rig.run("insert into m values (26, 'c')").await;
        assert_eq!(row(&mut subscriber).await, "insert m -> (26,c) m:26");
        rig.run("alter table m detach partition apart").await;
        subscriber
            .marked("partitions_detached m(public.apart)")
            .await;
        rig.run("insert into apart values (27, 'unseen')").await;
        rig.run("insert into m values (2, 'd')").await;
        assert_eq!(row(&mut subscriber).await, "insert m -> (2,d) m:2");
    }
}

#[tokio::test]
async fn rows_that_are_written_anew_in_silence_are_told() {
    for rig in rigs().await {
        rig.run("create table t (id int primary key, v text); insert into t values (1, 'a')")
            .await;
        let mut subscriber = rig.subscribe(rig.impatient("t")).await;
        // These change no value, or are in the log.
        rig.run("vacuum full t").await;
        rig.run("cluster t using t_pkey").await;
        rig.run("truncate t").await;
        rig.run("insert into t values (1, 'a')").await;
        subscriber.told(2).await;
        tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
        subscriber.batch().await.unwrap();
        assert_eq!(subscriber.markers, []);
        rig.run("alter table t add column r float default random()")
            .await;
        subscriber.marked("table_rewritten t()").await;
        rig.run("alter table t add column s int default 5").await;
        subscriber.marked("table_rewritten t()").await;
        rig.run("alter table t alter v type varchar(10) using upper(v)")
            .await;
        subscriber.marked("table_rewritten t()").await;
    }
}
