//! Change streams with a slot of their own: what is acknowledged, and where they go on.

use howdah::pb::v1::{
    AckPolicy, AcknowledgeRequest, ChangeStream, CreateChangeStreamRequest, SubscribeRequest,
};
use tonic::{Code, Status};

use super::{
    rig::{Rig, admin},
    subscriber::Subscriber,
    truth::rigs,
};
use crate::support::howdah::{Howdah, Options, eventually, instance_name, reason, succeeded};

const T: &str = "create table t (id int primary key, v text)";

/// Makes a stream of tables, and answers its name.
async fn stream(rig: &Rig<'_>, tables: &str) -> String {
    let id = rig.database.replace('_', "-");
    let change_stream = ChangeStream {
        database: rig.database.clone(),
        tables: tables.split_whitespace().map(str::to_owned).collect(),
        ..ChangeStream::default()
    };
    let request = CreateChangeStreamRequest {
        parent: instance_name(&rig.instance),
        change_stream_id: id,
        change_stream: Some(change_stream),
        ..CreateChangeStreamRequest::default()
    };
    let accepted = rig
        .howdah
        .streams()
        .await
        .create_change_stream(request)
        .await;
    let done = rig.howdah.wait(accepted.unwrap().get_ref()).await;
    let made: ChangeStream = succeeded(&done);
    made.name
}

fn request(name: &str, token: &[u8]) -> SubscribeRequest {
    SubscribeRequest {
        change_stream: name.into(),
        resume_token: token.to_vec(),
        heartbeat_interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 100_000_000,
        }),
        ..SubscribeRequest::default()
    }
}

async fn subscribe(rig: &Rig<'_>, name: &str, token: &[u8]) -> Subscriber {
    // The former subscriber's connection may take a moment to end.
    let start = std::time::Instant::now();
    loop {
        match rig.try_subscribe(request(name, token)).await {
            Ok(mut subscriber) => {
                subscriber.ready().await;
                return subscriber;
            }
            Err(status) if status.code() == Code::Aborted && start.elapsed().as_secs() < 20 => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            Err(status) => panic!("{status:?}"),
        }
    }
}

async fn acknowledge(rig: &Rig<'_>, name: &str, token: &[u8]) -> Result<u64, Status> {
    let request = AcknowledgeRequest {
        change_stream: name.into(),
        token: token.to_vec(),
    };
    let answer = rig.howdah.streams().await.acknowledge(request).await?;
    Ok(answer.into_inner().acknowledged)
}

/// The changes of the next transactions, without schemas.
async fn rows(subscriber: &mut Subscriber, commits: usize) -> Vec<String> {
    let told = subscriber.told(commits).await;
    told.into_iter()
        .filter(|told| !told.starts_with("schema"))
        .collect()
}

#[tokio::test]
async fn a_stream_goes_on_behind_what_is_acknowledged() {
    for rig in rigs().await {
        rig.run(T).await;
        let name = stream(&rig, "t").await;
        rig.run("insert into t values (1, 'before anybody read')")
            .await;
        let mut first = subscribe(&rig, &name, b"").await;
        assert_eq!(
            rows(&mut first, 1).await,
            ["insert t -> (1,before anybody read) t:1"]
        );
        let token = first.last.resume_token.clone();
        rig.run("insert into t values (2, 'b')").await;
        assert_eq!(rows(&mut first, 1).await, ["insert t -> (2,b) t:2"]);
        acknowledge(&rig, &name, &token).await.unwrap();
        drop(first);
        // The second row was not acknowledged, and comes again.
        let mut second = subscribe(&rig, &name, b"").await;
        assert_eq!(rows(&mut second, 1).await, ["insert t -> (2,b) t:2"]);
        let newer = second.last.resume_token.clone();
        drop(second);
        // With a token of its own a client goes on where it was.
        rig.run("insert into t values (3, 'c')").await;
        let mut third = subscribe(&rig, &name, &newer).await;
        assert_eq!(rows(&mut third, 1).await, ["insert t -> (3,c) t:3"]);
        acknowledge(&rig, &name, &third.last.resume_token)
            .await
            .unwrap();
        let confirmed = format!(
            "select confirmed_flush_lsn >= '0/0'::pg_lsn + {} from pg_replication_slots
             where database = current_database()",
            third.last.server_position.unwrap().sent
        );
        eventually("the server learns of it", || async {
            rig.value::<bool>(&confirmed).await
        })
        .await;
        // What was acknowledged cannot be had again.
        drop(third);
        let start = std::time::Instant::now();
        let status = loop {
            let status = rig.refusal(request(&name, &newer)).await;
            if reason(&status) != "SLOT_IN_USE" || start.elapsed().as_secs() > 20 {
                break status;
            }
        };
        assert_eq!(reason(&status), "TOKEN_STALE", "{status:?}");
    }
}

#[tokio::test]
async fn a_token_inside_a_transaction_is_exact() {
    for rig in rigs().await {
        rig.run(T).await;
        let name = stream(&rig, "t").await;
        let small = |token: &[u8]| SubscribeRequest {
            max_batch_bytes: 1024,
            ..request(&name, token)
        };
        let mut first = rig.try_subscribe(small(b"")).await.unwrap();
        rig.run(
            "begin; insert into t select i, repeat('x', 50) from generate_series(1, 300) i;
             select pg_logical_emit_message(true, 'p', 'm'); commit;
             select pg_logical_emit_message(false, 'p', 'alone')",
        )
        .await;
        let (mut seen, mut last) = (Vec::new(), 0);
        while seen.len() < 100 {
            let change = first.change().await;
            last = last.max(change.ordinal);
            seen.extend(first.tell(&change));
        }
        // All of the batches that were received are taken.
        while let Some(change) = first.changes.pop_front() {
            last = last.max(change.ordinal);
            seen.extend(first.tell(&change));
        }
        let token = first.last.resume_token.clone();
        drop(first);
        let mut next = subscribe(&rig, &name, &token).await;
        let rest = next.transactions(1).await;
        let ordinals: Vec<u64> = rest
            .iter()
            .map(|it| it.ordinal)
            .filter(|it| *it > 0)
            .collect();
        assert_eq!(ordinals, (last + 1..=301).collect::<Vec<_>>());
        let change = next.change().await;
        assert_eq!(next.tell(&change).unwrap(), "message p alone out");
        // Behind the message, which belongs to no transaction.
        let token = loop {
            let batch = next.batch().await.unwrap();
            if batch.changes.is_empty() {
                break batch.resume_token;
            }
        };
        drop(next);
        rig.run("insert into t values (1000, 'y')").await;
        let mut last = subscribe(&rig, &name, &token).await;
        assert_eq!(rows(&mut last, 1).await, ["insert t -> (1000,y) t:1000"]);
    }
}

#[tokio::test]
async fn a_lost_walsender_is_replaced_in_the_same_call() {
    for rig in rigs().await {
        rig.run(T).await;
        let name = stream(&rig, "t").await;
        let mut subscriber = subscribe(&rig, &name, b"").await;
        for round in 0..5 {
            rig.run(&format!("insert into t values ({round}, 'a')"))
                .await;
            if round % 2 == 0 {
                rig.run(
                    "select pg_terminate_backend(active_pid) from pg_replication_slots
                    where database = current_database()",
                )
                .await;
            }
        }
        let got = rows(&mut subscriber, 5).await;
        let wanted: Vec<String> = (0..5)
            .map(|n| format!("insert t -> ({n},a) t:{n}"))
            .collect();
        assert_eq!(got, wanted);
    }
}

#[tokio::test]
async fn a_stream_has_one_subscriber_that_another_one_may_end() {
    for rig in rigs().await {
        rig.run(T).await;
        let name = stream(&rig, "t").await;
        let mut first = subscribe(&rig, &name, b"").await;
        let status = rig.refusal(request(&name, b"")).await;
        assert_eq!(reason(&status), "SLOT_IN_USE", "{status:?}");
        let take_over = SubscribeRequest {
            take_over: true,
            ..request(&name, b"")
        };
        let mut second = rig.try_subscribe(take_over).await.unwrap();
        second.ready().await;
        let status = first.end().await;
        assert_eq!(reason(&status), "SLOT_IN_USE", "{status:?}");
        rig.run("insert into t values (1, 'a')").await;
        assert_eq!(rows(&mut second, 1).await, ["insert t -> (1,a) t:1"]);
    }
}

#[tokio::test]
async fn what_is_delivered_is_acknowledged_where_that_is_asked_for() {
    for rig in rigs().await {
        rig.run(T).await;
        let name = stream(&rig, "t").await;
        let on_delivery = SubscribeRequest {
            ack_policy: AckPolicy::OnDelivery.into(),
            ..request(&name, b"")
        };
        let mut first = rig.try_subscribe(on_delivery).await.unwrap();
        first.ready().await;
        rig.run("insert into t values (1, 'a')").await;
        assert_eq!(rows(&mut first, 1).await, ["insert t -> (1,a) t:1"]);
        let acknowledged =
            "select confirmed_flush_lsn >= $1::text::pg_lsn from pg_replication_slots
            where database = current_database()";
        let end: String = rig.value("select pg_current_wal_lsn()::text").await;
        // Heartbeats go on, and take the acknowledgement with them.
        let start = std::time::Instant::now();
        loop {
            first.batch().await.unwrap();
            let row = rig.sql.query_one(acknowledged, &[&end]).await.unwrap();
            if row.get::<_, bool>(0) {
                break;
            }
            assert!(start.elapsed().as_secs() < 30, "it is acknowledged");
        }
        drop(first);
        rig.run("insert into t values (2, 'b')").await;
        let mut second = subscribe(&rig, &name, b"").await;
        assert_eq!(rows(&mut second, 1).await, ["insert t -> (2,b) t:2"]);
    }
}

#[tokio::test]
async fn a_killed_howdah_loses_nothing() {
    let mut howdah = Howdah::serve(Options::external().await).await;
    super::rig::versioned_instance(&howdah, "killed", "15").await;
    let (sql, database, name, token) = {
        let rig = Rig::on(&howdah, "killed", "").await;
        rig.run(T).await;
        let name = stream(&rig, "t").await;
        let mut first = subscribe(&rig, &name, b"").await;
        rig.run("insert into t values (1, 'a')").await;
        assert_eq!(rows(&mut first, 1).await, ["insert t -> (1,a) t:1"]);
        let token = first.last.resume_token.clone();
        acknowledge(&rig, &name, &token).await.unwrap();
        rig.run("insert into t values (2, 'b')").await;
        (rig.sql, rig.database, name, token)
    };
    howdah.kill().await;
    sql.batch_execute("insert into t values (3, 'c')")
        .await
        .unwrap();
    howdah.start("").await;
    let rig = Rig {
        howdah: &howdah,
        instance: "killed".into(),
        database: database.clone(),
        sql: admin(&howdah, "killed", &database).await,
    };
    let mut second = subscribe(&rig, &name, &token).await;
    assert_eq!(
        rows(&mut second, 2).await,
        ["insert t -> (2,b) t:2", "insert t -> (3,c) t:3"]
    );
}

#[tokio::test]
async fn tokens_that_cannot_be_gone_on_from_are_refused() {
    for rig in rigs().await {
        rig.run(T).await;
        let name = stream(&rig, "t").await;
        let subscriber = subscribe(&rig, &name, b"").await;
        let token = subscriber.last.resume_token.clone();
        drop(subscriber);
        let mut damaged = token.to_vec();
        damaged[30] ^= 1;
        let wrong = [
            (damaged, "FIELD_INVALID"),
            (b"nonsense".to_vec(), "FIELD_INVALID"),
        ];
        for (token, why) in wrong {
            let status = rig.refusal(request(&name, &token)).await;
            assert_eq!(reason(&status), why, "{status:?}");
        }
        let mixed = SubscribeRequest {
            tables: vec!["t".into()],
            ..request(&name, b"")
        };
        let status = rig.refusal(mixed).await;
        assert_eq!(reason(&status), "FIELD_INVALID", "{status:?}");
        let temporary = SubscribeRequest {
            resume_token: token,
            ..rig.request("t")
        };
        let status = rig.refusal(temporary).await;
        assert_eq!(reason(&status), "FIELD_INVALID", "{status:?}");
    }
}

#[tokio::test]
async fn a_stream_watches_its_tables() {
    for rig in rigs().await {
        rig.run("create table t (id int not null, v text, constraint k primary key (id))")
            .await;
        let name = stream(&rig, "t").await;
        let mut first = subscribe(&rig, &name, b"").await;
        rig.run("alter table t drop constraint k").await;
        first.marked("published_events_changed t()").await;
        rig.run("update t set v = 'unseen'; insert into t values (1, 'a')")
            .await;
        assert_eq!(rows(&mut first, 1).await, ["insert t -> (1,a)"]);
        drop(first);
        // While nobody subscribed the key came back, which the next subscriber's watch finds.
        rig.run("alter table t add constraint k primary key (id)")
            .await;
        let mut second = subscribe(&rig, &name, b"").await;
        second.marked("published_events_changed t()").await;
        rig.run("update t set v = 'b'").await;
        let last = rows(&mut second, 2).await.pop().unwrap();
        assert_eq!(last, "update t -> (1,b) t:1");
        rig.run("drop table t; create table t (id int primary key)")
            .await;
        let status = second.end().await;
        assert_eq!(reason(&status), "TABLE_REPLACED", "{status:?}");
    }
}
