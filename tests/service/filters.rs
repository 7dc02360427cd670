//! Filters of lists against a model of their own, over rows that are made at random.

use chrono::{DateTime, Utc};
use howdah::{
    pb::v1::{ListDatabasesRequest, ListInstancesRequest},
    pg::sql::quote_literal,
};
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use serde_json::json;

use super::{
    other_release::FORGET_CHECKS,
    rig::{Metadata, serve},
};
use crate::support::howdah::{Howdah, PROJECT, instance_name};

const ROWS: usize = 120;
const FILTERS: usize = 80;

/// Texts whose order depends on the collation, and that have to be quoted.
const TEXTS: [&str; 14] = [
    "", "a", "A", "b", "B", "ab", "a b", "a-b", "ä", "z", "a\"b", "a\\b", "%", "🐘",
];
const KEYS: [&str; 3] = ["team", "a.b/c", "x"];
const VERSIONS: [&str; 5] = ["", "15", "15.18", "9", "16"];

/// Seconds and nanoseconds, which are more than a second's worth in a leap second.
type Time = (i64, u32);

#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Value {
    Text(String),
    Bool(bool),
    Time(Time),
}

#[derive(Clone, Debug)]
struct Row {
    id: String,
    state: &'static str,
    /// Of an instance its version, of a database its owner.
    word: String,
    display_name: String,
    ephemeral: bool,
    create_time: Time,
    labels: Vec<(&'static str, &'static str)>,
    /// What makes it a row of another release.
    broken: Option<&'static str>,
}

impl Row {
    fn value(&self, field: &str) -> Option<Value> {
        match field {
            "instance_id" | "database_id" => return Some(Value::Text(self.id.clone())),
            "create_time" => return Some(Value::Time(self.create_time)),
            _ if self.broken.is_some() => return None,
            _ => {}
        }
        let text = |text: &str| Some(Value::Text(text.to_owned()));
        match field {
            "state" => text(self.state),
            "version" | "owner" => text(&self.word),
            "postgresql_name" => text(&format!("p{}", self.id)),
            "display_name" => text(&self.display_name),
            "ephemeral" => Some(Value::Bool(self.ephemeral)),
            label => {
                let key = label.strip_prefix("labels.").unwrap();
                let found = self.labels.iter().rev().find(|(name, _)| *name == key);
                found.and_then(|(_, value)| text(value))
            }
        }
    }

    fn labels(&self) -> String {
        let labels = self.labels.iter();
        let labels = labels.map(|(key, value)| ((*key).to_owned(), json!(value)));
        quote_literal(&serde_json::Value::Object(labels.collect()).to_string())
    }

    fn created(&self) -> String {
        let time = DateTime::from_timestamp(self.create_time.0, self.create_time.1);
        time.unwrap().to_rfc3339()
    }
}

#[derive(Clone, Debug)]
struct Comparison {
    field: String,
    sign: &'static str,
    operand: Value,
}

impl Comparison {
    fn holds(&self, row: &Row) -> bool {
        let Some(value) = row.value(&self.field) else {
            return self.sign == "!=";
        };
        match self.sign {
            "=" => value == self.operand,
            "!=" => value != self.operand,
            "<" => value < self.operand,
            "<=" => value <= self.operand,
            ">" => value > self.operand,
            ":" => match (&value, &self.operand) {
                (Value::Text(value), Value::Text(operand)) => value.contains(operand),
                other => panic!("no texts: {other:?}"),
            },
            _ => value >= self.operand,
        }
    }

    fn text(&self) -> String {
        let operand = match &self.operand {
            Value::Text(text) => {
                let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
                format!("\"{escaped}\"")
            }
            Value::Bool(value) => value.to_string(),
            Value::Time((seconds, nanoseconds)) => {
                let time: DateTime<Utc> = DateTime::from_timestamp(*seconds, 0).unwrap();
                let leap = nanoseconds / 1_000_000_000;
                let fraction = nanoseconds % 1_000_000_000;
                let minute = time.format("%Y-%m-%dT%H:%M");
                let second = time.timestamp().rem_euclid(60) + i64::from(leap);
                format!("{minute}:{second:02}.{fraction:09}Z")
            }
        };
        format!("{} {} {operand}", self.field, self.sign)
    }
}

/// Times that are close to each other, about the turn of a minute.
fn times() -> impl Strategy<Value = Time> + Clone {
    let seconds = select(vec![-1, 0, 1, 1_767_225_599, 1_767_225_600]);
    (seconds, select(vec![0, 1_000, 500_000_000, 999_999_000]))
}

fn rows(
    states: &'static [&'static str],
    words: &'static [&'static str],
) -> impl Strategy<Value = Row> {
    let labels = prop::collection::vec((select(KEYS.to_vec()), select(TEXTS.to_vec())), 0..3);
    let texts = (select(states), select(words), select(TEXTS.to_vec()));
    (texts, any::<bool>(), times(), labels).prop_map(
        |((state, word, display_name), ephemeral, create_time, labels)| Row {
            id: String::new(),
            state,
            word: word.to_owned(),
            display_name: display_name.to_owned(),
            ephemeral,
            create_time,
            labels,
            broken: None,
        },
    )
}

/// Values of the fields, those of no row, and those that no column can hold.
fn comparisons(
    kinds: &'static [&'static str],
    states: &'static [&'static str],
) -> BoxedStrategy<Comparison> {
    let texts = || {
        let odd = select(vec!["a\0", "\0", "ab\0c", "none", "i007", "d007", "pd007"]);
        let texts = prop_oneof![select(TEXTS.to_vec()), select(VERSIONS.to_vec()), odd];
        texts.prop_map(|text| Value::Text(text.to_owned()))
    };
    let ids = |letters: &'static str| {
        (0..ROWS).prop_map(move |number| Value::Text(format!("{letters}{number:03}")))
    };
    let operand_times = (times(), select(vec![0, 1, 999]));
    let operand_times = operand_times
        .prop_map(|((seconds, nanoseconds), more)| Value::Time((seconds, nanoseconds + more)));
    let leap = select(vec![0, 999_999_999]);
    let leap = leap.prop_map(|more| Value::Time((1_767_225_599, 1_000_000_000 + more)));
    let field = select(kinds).prop_flat_map(move |field| {
        let operand: BoxedStrategy<Value> = match field {
            "state" => select(states)
                .prop_map(|text| Value::Text(text.into()))
                .boxed(),
            "ephemeral" => any::<bool>().prop_map(Value::Bool).boxed(),
            "create_time" => prop_oneof![4 => operand_times.clone(), 1 => leap.clone()].boxed(),
            "instance_id" => prop_oneof![ids("i"), texts()].boxed(),
            "database_id" => prop_oneof![ids("d"), texts()].boxed(),
            "postgresql_name" => prop_oneof![ids("pd"), texts()].boxed(),
            _ => texts().boxed(),
        };
        (Just(field), operand)
    });
    let signs = select(vec!["=", "!=", "<", "<=", ">", ">=", ":"]);
    let keys = select(KEYS.to_vec());
    let comparison = (field, signs, keys).prop_map(|((field, operand), sign, key)| Comparison {
        field: if field == "label" {
            format!("labels.{key}")
        } else {
            field.to_owned()
        },
        // Of texts alone it can be asked what they hold.
        sign: match (field, sign) {
            ("state" | "ephemeral" | "create_time", ":") => "=",
            _ => sign,
        },
        operand,
    });
    comparison.boxed()
}

fn sample<T>(runner: &mut TestRunner, strategy: &impl Strategy<Value = T>) -> T {
    strategy.new_tree(runner).unwrap().current()
}

/// Rows made at random; every eighth is broken where there is something to break.
fn made(
    runner: &mut TestRunner,
    letter: char,
    strategy: &impl Strategy<Value = Row>,
    broken: &'static [&'static str],
) -> Vec<Row> {
    let mut made = Vec::new();
    for number in 0..ROWS {
        let mut row = sample(runner, strategy);
        row.id = format!("{letter}{number:03}");
        if number % 8 == 3 && !broken.is_empty() {
            row.broken = Some(broken[number / 8 % broken.len()]);
        }
        made.push(row);
    }
    made
}

/// Columns of a database that is not sorted by bytes.
async fn collate(metadata: &Metadata) {
    for table in ["instances", "databases"] {
        let sql =
            format!(r#"alter table {table} alter display_name type text collate "und-x-icu""#);
        metadata.execute(&sql).await;
    }
}

/// What other releases may write in place of what this one knows.
const BROKEN_INSTANCES: [&str; 14] = [
    "update instances set state = 'PAUSED'",
    "update instances set wanted_version = 'next'",
    "update instances set wanted_version = '15.'",
    "update instances set wanted_version = '99999'",
    r#"update instances set labels = '["team"]'"#,
    r#"update instances set labels = '{"team": ["a"]}'"#,
    "update instances set annotations = '7'",
    r#"update instances set parameters = '{"work_mem": {"value": 1}}'"#,
    r#"update instances set conditions = '"none"'"#,
    "update servers set version = 'x'",
    "update servers set wanted = 'PAUSED'",
    "update servers set role = 'STANDBY'",
    "update servers set system_identifier = '-1'",
    r#"update servers set address = '{"host": "h", "port": 70000}'"#,
];

const BROKEN_DATABASES: [&str; 5] = [
    "update databases set state = 'MOVING'",
    "update databases set annotations = '7'",
    r#"update databases set labels = '{"team": null}'"#,
    "update databases set postgresql_name = repeat('x', 64) || id",
    "update databases set owner = ''",
];

const INSTANCE_STATES: [&str; 3] = ["STOPPED", "FAILED", "DELETED"];
const INSTANCE_FIELDS: [&str; 8] = [
    "instance_id",
    "state",
    "version",
    "display_name",
    "ephemeral",
    "create_time",
    "label",
    "label",
];
const DATABASE_STATES: [&str; 2] = ["READY", "FAILED"];
const DATABASE_FIELDS: [&str; 8] = [
    "database_id",
    "state",
    "postgresql_name",
    "owner",
    "display_name",
    "create_time",
    "label",
    "label",
];

/// Records instances that nothing runs, each with a server.
async fn record_instances(metadata: &Metadata, rows: &[Row]) {
    let mut sql = String::new();
    for row in rows {
        let (id, display_name) = (quote_literal(&row.id), quote_literal(&row.display_name));
        sql += &format!(
            "with made as (insert into instances (uid, project, id, display_name, labels,
                annotations, create_time, state, wanted_version, parameters, ephemeral,
                deletion_protection)
             values (gen_random_uuid(), 'default', {id}, {display_name}, {},
                '{{}}', '{}', '{}', '{}', '{{\"work_mem\": \"4MB\"}}', {}, false)
             returning uid)
             insert into servers (uid, instance_uid, number, role, provider, version,
                wanted, system_identifier, address, admin_password)
             select gen_random_uuid(), uid, 1, 'ACTIVE', 'elsewhere', '15.18', 'STOPPED',
                '7351231231231231231',
                '{{\"host\": \"h\", \"port\": 5432, \"socket_directory\": null}}', key.head
             from made, (select '\\x01'::bytea || set_byte('\\x00', 0, length(key_id))
                || key_id::bytea as head from sealing_keys limit 1) key;",
            row.labels(),
            row.created(),
            row.state,
            row.word,
            row.ephemeral,
        );
        if let Some(broken) = row.broken {
            sql += &match broken.contains("servers") {
                true => format!(
                    "{broken} where instance_uid = (select uid from instances where id = {id});"
                ),
                false => format!("{broken} where id = {id};"),
            };
        }
    }
    metadata.execute(&sql).await;
}

async fn record_databases(metadata: &Metadata, rows: &[Row]) {
    let mut sql = String::new();
    for row in rows {
        let (id, display_name) = (quote_literal(&row.id), quote_literal(&row.display_name));
        sql += &format!(
            "insert into databases (uid, instance_uid, id, display_name, labels, annotations,
                create_time, state, postgresql_name, owner, encoding, locale_provider, locale,
                connection_limit, deletion_protection)
             select gen_random_uuid(), uid, {id}, {display_name}, {}, '{{}}', '{}', '{}',
                'p' || {id}, {}, 'UTF8', '', '', 0, false from instances where id = 'home';",
            row.labels(),
            row.created(),
            row.state,
            quote_literal(&row.word),
        );
        if let Some(broken) = row.broken {
            sql += &format!("{broken} where id = {id};");
        }
    }
    metadata.execute(&sql).await;
}

/// The pages of a list, as ids.
async fn pages(
    howdah: &Howdah,
    databases: bool,
    filter: &str,
    order_by: &str,
    page_size: i32,
) -> Vec<Vec<String>> {
    let (mut pages, mut page_token) = (Vec::new(), String::new());
    loop {
        let names: Vec<String>;
        (names, page_token) = if databases {
            let request = ListDatabasesRequest {
                parent: instance_name("home"),
                page_size,
                page_token,
                filter: filter.into(),
                order_by: order_by.into(),
            };
            let answer = howdah.databases().await.list_databases(request).await;
            let answer = answer.unwrap().into_inner();
            let found = answer.databases.into_iter().map(|found| found.name);
            (found.collect(), answer.next_page_token)
        } else {
            let request = ListInstancesRequest {
                parent: PROJECT.into(),
                page_size,
                page_token,
                filter: filter.into(),
                order_by: order_by.into(),
                show_deleted: false,
            };
            let answer = howdah.instances().await.list_instances(request).await;
            let answer = answer.unwrap().into_inner();
            let found = answer.instances.into_iter().map(|found| found.name);
            (found.collect(), answer.next_page_token)
        };
        let id = |name: String| name.rsplit_once('/').unwrap().1.to_owned();
        pages.push(names.into_iter().map(id).collect());
        if page_token.is_empty() {
            return pages;
        }
    }
}

/// Asks with filters made at random, and compares with the model. Pages are full where
/// every row can be read: the metadata finds no more than what matches.
async fn compare(runner: &mut TestRunner, howdah: &Howdah, databases: bool, rows: &[Row]) {
    let of_one = match databases {
        true => comparisons(&DATABASE_FIELDS, &DATABASE_STATES),
        false => comparisons(&INSTANCE_FIELDS, &INSTANCE_STATES),
    };
    let filters = prop::collection::vec(of_one, 1..4);
    let id_field = if databases {
        "database_id"
    } else {
        "instance_id"
    };
    let readable = rows.iter().all(|row| row.broken.is_none());
    for _ in 0..FILTERS {
        let filter = sample(runner, &filters);
        let text: Vec<String> = filter.iter().map(Comparison::text).collect();
        let text = text.join(" AND ");
        let (descending, by_time) = sample(runner, &any::<(bool, bool)>());
        let page_size = sample(runner, &select(vec![3, 25, 1000]));
        let field = if by_time { "create_time" } else { id_field };
        let order_by = format!("{field}{}", if descending { " desc" } else { "" });

        let matches = |row: &&Row| filter.iter().all(|comparison| comparison.holds(row));
        let mut expected: Vec<&Row> = rows.iter().filter(matches).collect();
        expected.sort_by_key(|row| (by_time.then_some(row.create_time), &row.id));
        if descending {
            expected.reverse();
        }
        let expected: Vec<&String> = expected.iter().map(|row| &row.id).collect();
        let pages = pages(howdah, databases, &text, &order_by, page_size).await;
        let found: Vec<&String> = pages.iter().flatten().collect();
        assert_eq!(found, expected, "{text:?} by {order_by} of {rows:#?}");
        let size = usize::try_from(page_size).unwrap();
        let full = pages.iter().rev().skip(1).all(|page| page.len() == size);
        assert!(full || !readable, "{text:?}: {pages:?}");
    }
}

#[tokio::test]
async fn filters_of_instances_are_what_the_model_says() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    metadata.execute(FORGET_CHECKS).await;
    collate(&metadata).await;
    let runner = &mut TestRunner::new(Config::default());
    let strategy = rows(&INSTANCE_STATES, &["", "15", "15.18", "16"]);
    for broken in [&[][..], &BROKEN_INSTANCES] {
        let rows = made(runner, 'i', &strategy, broken);
        metadata.execute("delete from instances").await;
        record_instances(&metadata, &rows).await;
        compare(runner, &howdah, false, &rows).await;
    }
}

#[tokio::test]
async fn filters_of_databases_are_what_the_model_says() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    metadata.execute(FORGET_CHECKS).await;
    collate(&metadata).await;
    metadata
        .execute(
            "insert into instances (uid, project, id, display_name, labels, annotations, state,
                wanted_version, parameters, ephemeral, deletion_protection)
             values (gen_random_uuid(), 'default', 'home', '', '{}', '{}', 'STOPPED', '15', '{}',
                false, false)",
        )
        .await;
    let runner = &mut TestRunner::new(Config::default());
    let strategy = rows(&DATABASE_STATES, &["a", "A", "b\\c", "ä", "z\"", "%"]);
    for broken in [&[][..], &BROKEN_DATABASES] {
        let rows = made(runner, 'd', &strategy, broken);
        metadata.execute("delete from databases").await;
        record_databases(&metadata, &rows).await;
        compare(runner, &howdah, true, &rows).await;
    }
}

/// A call looks at a bounded number of rows: where few match, pages are short or empty,
/// and the last row is found all the same.
#[tokio::test]
async fn a_filter_looks_at_a_bounded_number_of_rows() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    metadata
        .execute(
            "insert into instances (uid, project, id, display_name, labels, annotations,
                create_time, update_time, state, wanted_version, parameters, ephemeral,
                deletion_protection)
             select gen_random_uuid(), 'default', 'i' || lpad(n::text, 5, '0'),
                case when n in (5000, 19999) then 'rare' else 'common' end, '{}', '{}',
                now() - n * interval '1 s', now() + n * interval '1 s', 'STOPPED', '15', '{}',
                false, false from generate_series(0, 19999) n;
             analyze instances",
        )
        .await;
    let (first, last) = ("i05000".to_owned(), "i19999".to_owned());
    for (order_by, expected) in [
        ("", [vec![first.clone()], vec![last.clone()], vec![]]),
        (
            "create_time desc",
            [vec![first.clone()], vec![last.clone()], vec![]],
        ),
        ("update_time desc", [vec![last], vec![first], vec![]]),
    ] {
        for filter in ["display_name = rare", "display_name != common"] {
            let found = pages(&howdah, false, filter, order_by, 50).await;
            assert_eq!(found, expected, "{filter} by {order_by}");
        }
    }
    // What matches often fills its page at once.
    let common = pages(
        &howdah,
        false,
        "display_name = common AND instance_id < i00100",
        "",
        60,
    );
    let sizes: Vec<usize> = common.await.iter().map(Vec::len).collect();
    assert_eq!(sizes, [60, 40, 0]);
}
