//! Values as they arrive.

use howdah::pb::v1::{Value, ValueFormat, change::Event, value};

use crate::support::howdah::eventually;

use super::{
    rig::{Rig, shared},
    subscriber::Subscriber,
};

/// The values of the next row.
async fn row(subscriber: &mut Subscriber) -> Vec<value::Value> {
    loop {
        if let Some(Event::Row(row)) = subscriber.change().await.event {
            let row = row.after.or(row.before).unwrap();
            let values = row.values.into_iter();
            return values.map(|Value { value }| value.unwrap()).collect();
        }
    }
}

fn text(text: &str) -> value::Value {
    value::Value::Text(text.into())
}

#[tokio::test]
async fn text_is_the_same_whatever_the_database_has_set() {
    let rig = Rig::new().await;
    let database = &rig.database;
    rig.run(&format!(
        "alter database {database} set datestyle = 'German, DMY';
         alter database {database} set timezone = 'Asia/Tokyo';
         alter database {database} set intervalstyle = 'sql_standard';
         alter database {database} set extra_float_digits = -5;
         alter database {database} set bytea_output = 'escape';
         alter database {database} set search_path = 'odd';
         alter database {database} set default_transaction_read_only = on;
         alter database {database} set statement_timeout = '500ms';
         alter database {database} set idle_session_timeout = '500ms'"
    ))
    .await;
    rig.run(
        "create table v (id int primary key, d date, t timestamptz, i interval, f float8,
            b bytea, n numeric, a text[], j jsonb, ok bool, c char(3), x name)",
    )
    .await;
    let mut subscriber = rig.follow("v").await;
    let idle = "select count(*) = 1 from pg_stat_activity where datname = current_database()
        and application_name ~ '^howdah' and backend_type = 'client backend'
        and clock_timestamp() - state_change > interval '600 ms'";
    eventually("one session is idle for longer than allowed", || async {
        rig.value::<bool>(idle).await
    })
    .await;
    rig.run(
        r"insert into v values (1, '2026-02-03', '2026-02-03 04:05:06+00', '1 day 2 hours',
            0.1::float8 + 0.2, '\x00ff', 1.50, '{a,NULL,c d}', '{ }', true, 'a', 'n')",
    )
    .await;
    let values = [
        "1",
        "2026-02-03",
        "2026-02-03 04:05:06+00",
        "1 day 02:00:00",
        "0.30000000000000004",
        r"\x00ff",
        "1.50",
        r#"{a,NULL,"c d"}"#,
        "{}",
        "t",
        "a  ",
        "n",
    ];
    assert_eq!(row(&mut subscriber).await, values.map(text));
}

#[tokio::test]
async fn what_an_update_did_not_touch_is_not_null() {
    let rig = Rig::new().await;
    rig.run(
        "create table d (id int primary key, large text, small text);
         create table f (id int primary key, large text, small text);
         alter table d alter large set storage external;
         alter table f alter large set storage external;
         alter table f replica identity full",
    )
    .await;
    let mut subscriber = rig.follow("d f").await;
    for table in ["d", "f"] {
        rig.run(&format!(
            "insert into {table} values (1, repeat('x', 10000), 'a');
             update {table} set small = 'b'; update {table} set large = null; delete from {table}"
        ))
        .await;
    }
    let told = subscriber.told(2).await;
    assert_eq!(
        told,
        [
            "schema public.d(id*,large,small) default key(id)",
            "insert d -> (1,10000 bytes,a) d:1",
            "update d -> (1,UNCHANGED,b) d:1",
            "update d -> (1,NULL,b) d:1",
            "delete d (1,ABSENT,ABSENT) d:1",
            "schema public.f(id*,large*,small*) full key(id)",
            "insert f -> (1,10000 bytes,a) f:1",
            "update f (1,10000 bytes,a) -> (1,10000 bytes,b) f:1",
            "update f (1,10000 bytes,b) -> (1,NULL,b) f:1",
            "delete f (1,NULL,b) f:1",
        ]
    );
}

#[tokio::test]
async fn binary_is_postgresqls_own_form() {
    let rig = Rig::new().await;
    rig.run(
        "create type mood as enum ('sad', 'happy');
         create table b (id int8, k text, u uuid, a int[], m mood, t timestamptz, e text,
            primary key (id, k))",
    )
    .await;
    let mut request = rig.request("b");
    request.set_value_format(ValueFormat::Binary);
    let mut subscriber = rig.subscribe(request).await;
    rig.run(
        "insert into b values (258, 'k', '00000000-0000-0000-0000-0000000000ff', '{1}', 'sad',
            '2000-01-01 00:00:01+00', null)",
    )
    .await;
    let changes = subscriber.transactions(1).await;
    let Some(Event::Row(row)) = &changes[2].event else {
        panic!("{changes:?}");
    };
    assert_eq!(row.element_id, "b:258_k");
    let values = row.after.clone().unwrap().values;
    let values: Vec<_> = values
        .into_iter()
        .map(|value| value.value.unwrap())
        .collect();
    let binary = |bytes: &[u8]| value::Value::Binary(bytes.to_vec());
    let mut uuid = [0; 16];
    uuid[15] = 255;
    assert_eq!(values[0], binary(&258i64.to_be_bytes()));
    assert_eq!(values[1], binary(b"k"));
    assert_eq!(values[2], binary(&uuid));
    assert_eq!(values[4], binary(b"sad"));
    assert_eq!(values[5], binary(&1_000_000i64.to_be_bytes()));
    assert_eq!(values[6], value::Value::Null(value::Null {}));
}

#[tokio::test]
async fn types_without_a_binary_form_come_as_text() {
    let rig = Rig::new().await;
    rig.run("create table r (id int primary key, acl aclitem)")
        .await;
    let mut request = rig.request("r");
    request.set_value_format(ValueFormat::Binary);
    let mut subscriber = rig.subscribe(request).await;
    rig.run("insert into r values (1, 'howdah_admin=r/howdah_admin')")
        .await;
    let values = row(&mut subscriber).await;
    assert_eq!(values[1], text("howdah_admin=r/howdah_admin"));
}

#[tokio::test]
async fn invalid_utf8_of_a_sql_ascii_database_comes_as_bytes() {
    let howdah = shared().await;
    let options = "encoding 'SQL_ASCII' locale 'C'";
    let rig = Rig::on(howdah, "shared", options).await;
    rig.run("create table raw (id int primary key, v text)")
        .await;
    let mut subscriber = rig.follow("raw").await;
    rig.run(r"insert into raw values (1, E'\xff\xfe'), (2, E'caf\xc3\xa9')")
        .await;
    let bytes = value::Value::Binary(vec![0xff, 0xfe]);
    assert_eq!(row(&mut subscriber).await, [text("1"), bytes]);
    assert_eq!(row(&mut subscriber).await, [text("2"), text("café")]);
}

#[tokio::test]
async fn other_encodings_arrive_as_utf8() {
    let howdah = shared().await;
    let rig = Rig::on(howdah, "shared", "encoding 'LATIN1' locale 'C'").await;
    rig.run(r#"create table "tôle" (id int primary key, v text)"#)
        .await;
    let mut subscriber = rig.follow("\"tôle\"").await;
    rig.run(r#"insert into "tôle" values (1, 'café')"#).await;
    assert_eq!(row(&mut subscriber).await, [text("1"), text("café")]);
    assert_eq!(subscriber.schemas[&1].table, "tôle");
}

#[tokio::test]
async fn odd_names_are_names() {
    let rig = Rig::new().await;
    rig.run(
        r#"create schema "odd.name"; create schema "q""uote";
           create table "odd.name"."T" ("K.1" int primary key, "a,b" text);
           create table "q""uote"."semi;colon" (id int primary key);
           create table plain (id int primary key)"#,
    )
    .await;
    let mut request = rig.request("Plain");
    request.tables.push(r#""odd.name"."T""#.into());
    request.tables.push(r#""q""uote"."semi;colon""#.into());
    let mut subscriber = rig.subscribe(request).await;
    rig.run(
        r#"insert into "odd.name"."T" values (1, 'x'); insert into plain values (1);
           insert into "q""uote"."semi;colon" values (1)"#,
    )
    .await;
    assert_eq!(
        subscriber.told(1).await,
        [
            "schema odd.name.T(K.1*,a,b) default key(K.1)",
            "insert T -> (1,x) odd\\.name.T:1",
            "schema public.plain(id*) default key(id)",
            "insert plain -> (1) plain:1",
            "schema q\"uote.semi;colon(id*) default key(id)",
            "insert semi;colon -> (1) q\"uote.semi;colon:1",
        ]
    );
}

#[tokio::test]
async fn a_partitioned_table_stands_for_its_partitions() {
    let rig = Rig::new().await;
    rig.run(
        "create table m (id int, at date, v text, primary key (id, at)) partition by range (at);
         create table m_1 partition of m for values from ('2026-01-01') to ('2026-02-01');
         create table m_2 (v text, at date not null, id int not null, primary key (id, at));
         alter table m attach partition m_2 for values from ('2026-02-01') to ('2026-03-01')",
    )
    .await;
    let mut subscriber = rig.follow("m").await;
    let mut leaf = rig.follow("m_2").await;
    rig.run("insert into m values (1, '2026-01-05', 'a'); insert into m_2 values ('b', '2026-02-05', 2)")
        .await;
    rig.run("update m set v = 'c' where id = 2").await;
    rig.run("update m set at = '2026-02-06' where id = 1").await;
    rig.run(
        "create table m_3 partition of m for values from ('2026-03-01') to ('2026-04-01');
             insert into m values (3, '2026-03-05', 'd')",
    )
    .await;
    rig.run("truncate m").await;
    assert_eq!(
        subscriber.told(5).await,
        [
            "schema public.m(id*,at*,v) default key(id,at) partition \"public\".\"m_1\"",
            "insert m -> (1,2026-01-05,a) m:1_2026-01-05",
            "schema public.m(id*,at*,v) default key(id,at) partition \"public\".\"m_2\"",
            "insert m -> (2,2026-02-05,b) m:2_2026-02-05",
            "update m -> (2,2026-02-05,c) m:2_2026-02-05",
            "delete m (1,2026-01-05,ABSENT) m:1_2026-01-05",
            "insert m -> (1,2026-02-06,a) m:1_2026-02-06",
            "schema public.m(id*,at*,v) default key(id,at) partition \"public\".\"m_3\"",
            "insert m -> (3,2026-03-05,d) m:3_2026-03-05",
            "truncate m,m,m cascade=false restart=false",
        ]
    );
    assert_eq!(
        leaf.told(4).await,
        [
            "schema public.m_2(v,at*,id*) default key(at,id)",
            "insert m_2 -> (b,2026-02-05,2) m_2:2026-02-05_2",
            "update m_2 -> (c,2026-02-05,2) m_2:2026-02-05_2",
            "insert m_2 -> (a,2026-02-06,1) m_2:2026-02-06_1",
            "truncate m_2 cascade=false restart=false",
        ]
    );
}
