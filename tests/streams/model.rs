//! Random work on the server, applied to a model: both must end up the same.

use std::collections::{BTreeMap, HashMap};

use howdah::{
    pb::v1::{Row, RowChange, Schema, change::Event, row_change::Kind, value},
    pg::Client,
};

use super::{rig::Rig, subscriber::Subscriber};

const TABLES: &str = "
    create table a (id int primary key, v text, big text);
    create table b (x int, y text, v text, primary key (x, y));
    create table c (id int, v text, big text);
    create table d (k int not null unique, v text, big text);
    create table p (id int, v text, primary key (id)) partition by hash (id);
    create table p_0 partition of p for values with (modulus 2, remainder 0);
    create table p_1 partition of p for values with (modulus 2, remainder 1);
    alter table a alter big set storage external; alter table c alter big set storage external;
    alter table c replica identity full; alter table d replica identity using index d_k_key";

/// Random numbers that a seed brings back (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn statement(random: &mut Random) -> String {
    let (id, to, word) = (random.below(30), random.below(30), random.below(1000));
    let big = format!("repeat('{word},', {})", random.below(2) * 3000);
    match random.below(30) {
        0..=4 => format!("insert into a values ({id}, 'v{word}', {big}) on conflict do nothing"),
        5..=6 => format!("update a set v = 'v{word}' where id > {id}"),
        7 => format!("update a set big = {big} where id = {id}"),
        8 => format!(
            "update a set id = {to} where id = {id} and not exists (select from a where id = {to})"
        ),
        9 => format!("delete from a where id = {id}"),
        10..=12 => format!("insert into b values ({id}, 'y{word}', null) on conflict do nothing"),
        13 => format!("update b set y = y || '{word}', v = 'w' where x = {id}"),
        14 => format!("delete from b where x < {id}"),
        15..=17 => format!("insert into c values ({id}, null, {big}), ({id}, null, {big})"),
        18 => format!("update c set v = 'v{word}' where id = {id}"),
        19 => format!("delete from c where id = {id}"),
        20..=21 => format!("insert into d values ({id}, 'v', {big}) on conflict do nothing"),
        22 => format!("update d set v = '{word}' where k > {id}"),
        23 => format!("delete from d where k = {id}"),
        24..=25 => format!("insert into p values ({id}, 'v{word}') on conflict do nothing"),
        26 => format!(
            "update p set id = {to}, v = '{word}' where id = {id} and not exists (select from p where id = {to})"
        ),
        27 => format!("delete from p where id = {id}"),
        28 => format!(
            "insert into a select i, 'many', null from generate_series({id}, {id} + 20) i on conflict do nothing"
        ),
        _ => match random.below(6) {
            0 => "truncate a, b".into(),
            1 => "truncate p".into(),
            2 => format!("alter table c add column c_{word}_{id} int"),
            3 => format!("alter table a add column a_{word}_{id} text"),
            4 => "do $$ declare c text; begin select attname into c from pg_attribute
                where attrelid = 'a'::regclass and attname ~ '^a_' and not attisdropped limit 1;
                if c is not null then execute 'alter table a drop column ' || c; end if; end $$"
                .into(),
            _ => "truncate c restart identity".into(),
        },
    }
}

async fn transaction(client: &Client, random: &mut Random) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("begin").await?;
    for _ in 0..=random.below(5) {
        let savepoint = random.below(4) == 0;
        if savepoint {
            client.batch_execute("savepoint s").await?;
        }
        client.batch_execute(&statement(random)).await?;
        if savepoint && random.below(2) == 0 {
            client.batch_execute("rollback to s").await?;
        }
    }
    let end = if random.below(8) == 0 {
        "rollback"
    } else {
        "commit"
    };
    client.batch_execute(end).await
}

async fn write(client: &Client, seed: u64, transactions: usize) {
    let random = &mut Random(seed);
    client
        .batch_execute("set lock_timeout = '1s'")
        .await
        .unwrap();
    for _ in 0..transactions {
        if transaction(client, random).await.is_err() {
            // Lost against the other writer.
            client.batch_execute("rollback").await.unwrap();
        }
    }
}

type Values = BTreeMap<String, Option<String>>;

/// What a subscriber makes of the stream.
#[derive(Default)]
struct Model {
    tables: HashMap<String, Vec<Values>>,
}

impl Model {
    fn apply(&mut self, subscriber: &Subscriber, event: &Event) {
        match event {
            Event::Row(row) => self.row(&subscriber.schemas[&row.schema_id], row),
            Event::Truncate(truncate) => {
                for id in &truncate.schema_ids {
                    self.tables.remove(&subscriber.schemas[id].table);
                }
            }
            _ => {}
        }
    }

    fn row(&mut self, schema: &Schema, row: &RowChange) {
        let rows = self.tables.entry(schema.table.clone()).or_default();
        let after = row.after.as_ref();
        let old = match row.kind() {
            Kind::Insert => None,
            _ => {
                let image = row.before.as_ref().or(after).unwrap();
                let known = known(schema, image, row.before.is_none());
                let at = rows.iter().position(|row| {
                    known
                        .iter()
                        .all(|(name, value)| row.get(name).unwrap_or(&None) == value)
                });
                let at = at.unwrap_or_else(|| panic!("no row {known:?} in {}", schema.table));
                Some(rows.swap_remove(at))
            }
        };
        if let Some(after) = after {
            rows.push(image(schema, after, old.as_ref()));
        }
    }
}

fn text(value: &value::Value) -> Option<Option<String>> {
    match value {
        value::Value::Text(text) => Some(Some(text.clone())),
        value::Value::Null(_) => Some(None),
        _ => None,
    }
}

/// The values that find a row: of the old image, or of the identity of the new one.
fn known(schema: &Schema, row: &Row, identity_only: bool) -> Values {
    let columns = schema.columns.iter().zip(&row.values);
    columns
        .filter(|(column, _)| !identity_only || column.identity)
        .filter_map(|(column, value)| Some((column.name.clone(), text(value.value.as_ref()?)?)))
        .collect()
}

fn image(schema: &Schema, row: &Row, old: Option<&Values>) -> Values {
    let value = |(column, value): (&howdah::pb::v1::schema::Column, &howdah::pb::v1::Value)| {
        let text = match value.value.as_ref().unwrap() {
            value::Value::Unchanged(_) => old.expect("an old row")[&column.name].clone(),
            other => text(other).expect("a new row is whole"),
        };
        (column.name.clone(), text)
    };
    schema.columns.iter().zip(&row.values).map(value).collect()
}

async fn actual(rig: &Rig<'_>, table: &str, columns: &[String]) -> Vec<String> {
    let list: Vec<String> = columns
        .iter()
        .map(|column| format!("coalesce(\"{column}\"::text, 'NULL')"))
        .collect();
    let query = format!("select concat_ws('|', {}) from {table}", list.join(", "));
    let rows = rig.sql.query(&query, &[]).await.unwrap();
    let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    rows.sort_unstable();
    rows
}

/// Writes at random on two sessions, follows, and compares.
pub async fn compare(rig: &Rig<'_>, seed: u64, transactions: usize) {
    rig.run(TABLES).await;
    let mut subscriber = rig.follow("a b c d p").await;
    let (one, two) = (rig.session().await, rig.session().await);
    let writing = async {
        tokio::join!(
            write(&one, seed, transactions),
            write(&two, !seed, transactions)
        );
        rig.run("select pg_logical_emit_message(true, 'end', '')")
            .await;
    };
    let reading = async {
        let mut model = Model::default();
        loop {
            let event = subscriber.change().await.event.unwrap();
            if matches!(&event, Event::Message(message) if message.prefix == "end") {
                return model;
            }
            model.apply(&subscriber, &event);
        }
    };
    let ((), mut model) = tokio::join!(writing, reading);
    for table in ["a", "b", "c", "d", "p"] {
        let columns: Vec<String> = rig
            .value(&format!(
                "select array_agg(attname::text order by attnum) from pg_attribute
                 where attrelid = '{table}'::regclass and attnum > 0 and not attisdropped"
            ))
            .await;
        let rows = model.tables.remove(table).unwrap_or_default();
        let line = |row: &Values| {
            let value = |column| row.get(column).cloned().flatten();
            let values: Vec<_> = columns
                .iter()
                .map(|column| value(column).unwrap_or("NULL".into()))
                .collect();
            values.join("|")
        };
        let mut modelled: Vec<String> = rows.iter().map(line).collect();
        modelled.sort_unstable();
        assert_eq!(
            modelled,
            actual(rig, table, &columns).await,
            "{table}, seed {seed}"
        );
    }
}

#[tokio::test]
async fn the_stream_says_all_that_happens() {
    let rig = Rig::new().await;
    compare(&rig, 1, 150).await;
    let rig = Rig::new().await;
    compare(&rig, 2, 150).await;
}
