//! Streams over long times: random work on each major, and random kills.

use std::{
    cell::Cell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use howdah::pb::v1::{change::Event, value};
use tonic::Code;

use super::{deadline, seed};
use crate::{
    streams::{
        model::{self, Random},
        rig::{Rig, admin, versioned_instance},
        subscriber::Subscriber,
    },
    support::{
        howdah::{Howdah, Options, eventually},
        postgres::installation,
    },
};

/// Without a bound of its own a table takes this long.
const LENGTH: Duration = Duration::from_secs(20);

fn end() -> Instant {
    deadline().unwrap_or_else(|| Instant::now() + LENGTH)
}

/// Majors that are installed, and the program with all of them.
async fn with_engines() -> (Howdah, Vec<u32>) {
    let majors: Vec<u32> = (14..=18)
        .filter(|major| installation(*major).is_some())
        .collect();
    let directories: Vec<String> = majors
        .iter()
        .filter_map(|major| installation(*major))
        .map(|bin| bin.display().to_string())
        .collect();
    let options = Options::external().await;
    let options = options.with("HOWDAH_LOCAL_ENGINE_DIRECTORIES", directories.join(","));
    (Howdah::serve(options).await, majors)
}

#[tokio::test]
async fn random_work_is_told_whole_on_every_major() {
    let (howdah, majors) = with_engines().await;
    for major in &majors {
        versioned_instance(&howdah, &format!("v{major}"), &major.to_string()).await;
    }
    let end = end();
    let mut seed = seed();
    loop {
        for major in &majors {
            seed = seed.wrapping_add(1);
            println!("PostgreSQL {major}, seed {seed}");
            let rig = Rig::on(&howdah, &format!("v{major}"), "").await;
            model::compare(&rig, seed, 200).await;
            let elsewhere = admin(&howdah, &rig.instance, "postgres").await;
            rig.clean().await;
            let drop_it = format!("drop database {} with (force)", rig.database);
            elsewhere.batch_execute(&drop_it).await.unwrap();
        }
        if Instant::now() > end {
            return;
        }
    }
}

const WRITERS: usize = 2;

/// Numbers that writers have begun and ended to commit.
#[derive(Default)]
struct Written {
    begun: [Cell<i64>; WRITERS],
    committed: [Cell<i64>; WRITERS],
    stop: Cell<bool>,
}

impl Written {
    async fn write(&self, client: &howdah::pg::Client, writer: usize) {
        while !self.stop.get() {
            let number = self.begun[writer].get() + 1;
            self.begun[writer].set(number);
            let sql = format!("insert into t values ({writer}, {number})");
            client.batch_execute(&sql).await.unwrap();
            self.committed[writer].set(number);
        }
    }

    fn now(of: &[Cell<i64>; WRITERS]) -> Vec<i64> {
        of.iter().map(Cell::get).collect()
    }
}

/// What a subscription has seen of each writer: the first and the last number.
#[derive(Default)]
struct Seen(BTreeMap<usize, (i64, i64)>);

impl Seen {
    fn take(&mut self, subscriber: &mut Subscriber) {
        for change in subscriber.changes.drain(..) {
            let Some(Event::Row(row)) = change.event else {
                continue;
            };
            let values = row.after.unwrap().values;
            let number = |at: usize| -> i64 {
                match values[at].value.as_ref().unwrap() {
                    value::Value::Text(text) => text.parse().unwrap(),
                    other => panic!("{other:?}"),
                }
            };
            let (writer, number) = (usize::try_from(number(0)).unwrap(), number(1));
            let (_, last) = self.0.entry(writer).or_insert((number, number - 1));
            assert_eq!(number, *last + 1, "writer {writer}");
            *last = number;
        }
    }
}

#[tokio::test]
async fn each_subscription_sees_exactly_what_commits_after_its_first_batch() {
    let mut howdah = Howdah::serve(Options::external().await).await;
    versioned_instance(&howdah, "killed", "15").await;
    let rig = Rig::on(&howdah, "killed", "").await;
    rig.run("create table t (writer int, number bigint, primary key (writer, number))")
        .await;
    let clients = [rig.session().await, rig.session().await];
    let (sql, database) = (rig.sql, rig.database);
    let written = Written::default();
    let kills = async {
        let random = &mut Random(seed());
        let end = end();
        let mut rounds = 0;
        while Instant::now() < end {
            rounds += 1;
            let session = admin(&howdah, "killed", &database).await;
            let rig = Rig {
                howdah: &howdah,
                instance: "killed".into(),
                database: database.clone(),
                sql: session,
            };
            let before = Written::now(&written.committed);
            let mut subscriber = rig.follow("t").await;
            let begun = Written::now(&written.begun);
            let mut seen = Seen::default();
            for _ in 0..random.below(30) {
                subscriber.batch().await.unwrap();
                seen.take(&mut subscriber);
            }
            let kind = random.below(3);
            match kind {
                0 => {
                    rig.run("select pg_terminate_backend(active_pid) from pg_replication_slots")
                        .await;
                    assert_eq!(subscriber.end().await.code(), Code::Aborted);
                    seen.take(&mut subscriber);
                }
                1 => {
                    // Everything so far arrives; then the client goes.
                    let wanted = Written::now(&written.committed);
                    while (0..WRITERS).any(|w| seen.0.get(&w).is_none_or(|s| s.1 < wanted[w])) {
                        subscriber.batch().await.unwrap();
                        seen.take(&mut subscriber);
                    }
                }
                _ => {
                    drop(rig);
                    howdah.kill().await;
                    assert_ne!(subscriber.end().await.code(), Code::Ok);
                    seen.take(&mut subscriber);
                    howdah.start("").await;
                }
            }
            drop(subscriber);
            for (writer, (first, last)) in &seen.0 {
                assert!(*first > before[*writer], "older than the subscription");
                assert!(*first <= begun[*writer] + 1, "younger ones are missing");
                assert!(*last <= written.begun[*writer].get());
            }
        }
        written.stop.set(true);
        println!("{rounds} rounds");
        assert!(rounds > 2);
    };
    tokio::join!(
        kills,
        written.write(&clients[0], 0),
        written.write(&clients[1], 1)
    );
    eventually("nothing is left on the server", || async {
        let left = "select (select count(*) from pg_publication) + (select count(*) from pg_replication_slots)";
        sql.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}
