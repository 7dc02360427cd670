//! What a stream promises beside its changes: that it holds nobody up, and names what it sends. On
//! the oldest and the newest major that CI has.

use howdah::pb::v1::{LargeChanges, Publish, SubscribeRequest, change::Event};
use prost::Message as _;

use super::{
    rig::{Rig, majors, versioned_instance},
    truth::{check, rigs},
};
use crate::support::howdah::eventually;

#[tokio::test]
async fn inserts_alone_let_a_migration_through() {
    let migration = "begin; alter table t drop constraint k; update t set v = 'b';
        alter table t add constraint k primary key (id); commit";
    for rig in rigs().await {
        rig.run("create table t (id int not null, v text, constraint k primary key (id))")
            .await;
        let request = SubscribeRequest {
            publish: Publish::Inserts.into(),
            ..rig.request("t")
        };
        let mut subscriber = rig.subscribe(request).await;
        rig.run("insert into t values (1, 'a')").await;
        rig.run(migration).await;
        rig.run("insert into t values (2, 'c')").await;
        assert_eq!(
            subscriber.told(2).await,
            [
                "schema public.t(id*,v) default key(id) inserts",
                "insert t -> (1,a) t:1",
                "insert t -> (2,c) t:2"
            ]
        );
    }
}

#[tokio::test]
async fn subscriptions_to_the_same_tables_do_not_wait_for_each_other() {
    for rig in rigs().await {
        let tables: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
        let create = tables
            .iter()
            .map(|it| format!("create table {it} (id int primary key);"));
        rig.run(&create.collect::<String>()).await;
        let (forth, back) = (tables.join(" "), {
            let mut back = tables.clone();
            back.reverse();
            back.join(" ")
        });
        let both = (0..6).map(|n| rig.follow(if n % 2 == 0 { &forth } else { &back }));
        let subscribers = futures::future::join_all(both).await;
        assert_eq!(subscribers.len(), 6);
    }
}

#[tokio::test]
async fn the_slot_moves_under_a_backlog() {
    for rig in rigs().await {
        rig.run("create table t (id int primary key, v text)").await;
        let mut subscriber = rig.subscribe(rig.impatient("t")).await;
        rig.run("insert into t select i, repeat('x', 1000) from generate_series(1, 20000) i")
            .await;
        let writer = rig.session().await;
        let stop = std::cell::Cell::new(false);
        let write = async {
            while !stop.get() {
                let sql = "delete from t where id > 20000;
                    insert into t select i, repeat('x', 1000) from generate_series(20001, 22000) i";
                writer.batch_execute(sql).await.unwrap();
            }
        };
        let confirmed = "select confirmed_flush_lsn::text from pg_replication_slots
            where database = current_database()";
        let read = async {
            let first: String = rig.value(confirmed).await;
            eventually("the slot moves", || async {
                rig.value::<String>(confirmed).await != first
            })
            .await;
            stop.set(true);
        };
        let reading = async {
            while !stop.get() {
                subscriber.batch().await.unwrap();
                subscriber.changes.clear();
            }
        };
        tokio::join!(write, read, reading);
    }
}

#[tokio::test]
async fn large_changes_arrive_in_parts_or_are_left_out() {
    for rig in rigs().await {
        rig.run("create table t (id int primary key, v text)").await;
        let asked = |large: LargeChanges| SubscribeRequest {
            large_changes: large.into(),
            ..rig.request("t")
        };
        let mut parts = rig.subscribe(asked(LargeChanges::Fragments)).await;
        let mut rest = rig.subscribe(asked(LargeChanges::Skip)).await;
        rig.run(
            "begin; insert into t values (1, 'before'); insert into t values (2, repeat('x', 5 << 20));
             insert into t values (3, 'after'); commit",
        )
        .await;
        let (mut whole, mut rows) = (Vec::new(), Vec::new());
        for change in parts.transactions(1).await {
            match change.event.unwrap() {
                Event::Fragment(fragment) => whole.extend(fragment.part),
                Event::Row(row) => rows.push((row.element_id, change.ordinal)),
                _ => {}
            }
        }
        assert_eq!(rows, [("t:1".to_owned(), 1), ("t:3".to_owned(), 3)]);
        let change = howdah::pb::v1::Change::decode(&*whole).unwrap();
        let Some(Event::Row(large)) = change.event else {
            panic!("a row")
        };
        assert_eq!(large.element_id, "t:2");
        let ordinals: Vec<u64> = rest
            .transactions(1)
            .await
            .iter()
            .map(|change| change.ordinal)
            .filter(|ordinal| *ordinal > 0)
            .collect();
        assert_eq!(ordinals, [1, 3]);
        rest.marked("change_skipped t()").await;
    }
}

#[tokio::test]
async fn types_have_names() {
    for rig in rigs().await {
        rig.run(
            "create type mood as enum ('fine'); create domain small as int check (value < 10);
             create table t (id bigint primary key, m mood, s small, a text[], n numeric(5, 2))",
        )
        .await;
        let mut subscriber = rig.follow("t").await;
        rig.run("insert into t values (1, 'fine', 2, '{x}', 1.5)")
            .await;
        subscriber.told(1).await;
        let schema = subscriber.schemas.values().next().unwrap();
        let types: Vec<_> = schema
            .columns
            .iter()
            .map(|column| (column.type_name.as_str(), column.base_type_name.as_str()))
            .collect();
        assert_eq!(
            types,
            [
                ("bigint", ""),
                ("public.mood", ""),
                ("public.small", "integer"),
                ("text[]", ""),
                ("numeric", "")
            ]
        );
    }
}

#[tokio::test]
async fn names_of_any_bytes_do_not_end_a_stream() {
    let (howdah, instances) = majors().await;
    for instance in instances {
        let rig = Rig::on(howdah, instance, "encoding 'SQL_ASCII' locale 'C'").await;
        rig.run("create table t (id int primary key)").await;
        rig.run("set client_encoding = 'SQL_ASCII'").await;
        rig.run(
            "do $$ begin
                execute convert_from('\\x616c746572207461626c6520742061646420636f6c756d6e2063ff20696e74'::bytea, 'SQL_ASCII');
                perform pg_logical_emit_message(true, convert_from('\\x70fe'::bytea, 'SQL_ASCII'), 'm');
             end $$",
        )
        .await;
        let mut subscriber = rig.follow("t").await;
        rig.run(
            "begin; insert into t values (1, 2);
             select length(pg_logical_emit_message(true, convert_from('\\x70fe'::bytea, 'SQL_ASCII'), 'm')::text); commit",
        )
        .await;
        assert_eq!(
            subscriber.told(1).await,
            [
                "schema public.t(id*,c\\xff) default key(id)",
                "insert t -> (1,2) t:1",
                "message p\\xfe m in"
            ]
        );
    }
}

#[tokio::test]
async fn a_slot_that_the_server_gives_up_is_named_so() {
    let (howdah, _) = majors().await;
    for version in ["15", "18"] {
        let id = format!("retention-{version}");
        versioned_instance(howdah, &id, version).await;
        let rig = Rig::on(howdah, &id, "").await;
        rig.run("create table t (id int primary key, v text); alter table t alter v set storage external")
            .await;
        rig.run("alter system set max_slot_wal_keep_size = '1MB'")
            .await;
        rig.run("select pg_reload_conf()").await;
        let mut subscriber = rig.follow("t").await;
        // It does not read, and the log grows.
        for round in 0..20 {
            let from = round * 300;
            rig.run(&format!(
                "insert into t select i, repeat('x', 60000) from generate_series({from}, {from} + 299) i"
            ))
            .await;
            rig.run("select pg_switch_wal()").await;
            rig.run("checkpoint").await;
            let slots = "select count(*) from pg_replication_slots";
            if rig.value::<i64>(slots).await == 0 {
                break;
            }
        }
        let status = subscriber.end().await;
        check(&status, "SLOT_LOST");
    }
}
