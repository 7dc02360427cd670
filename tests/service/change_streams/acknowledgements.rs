//! What was stored is on record, and only rises.

use howdah::{
    domain::{
        change_stream::{Log, Position},
        token::Token,
    },
    pb::v1::{AcknowledgeRequest, ChangeStream, change_stream::State},
};
use tonic::{Code, Response, Status};
use uuid::Uuid;

use super::rig::{MAJORS, database, delete, get, items, made};
use crate::{
    service::rig::{Metadata, queries, refused},
    streams::rig::Rig,
    support::howdah::eventually,
};

/// The token of a position, as a batch of that stream has it.
async fn token(rig: &Rig<'_>, stream: &ChangeStream, lsn: u64, events: u64) -> Token {
    let metadata = Metadata::of(rig.howdah).await;
    let sql = "select epoch, system_identifier, timeline from change_streams
        where uid = $1::text::uuid";
    let row = metadata.0.query_one(sql, &[&stream.uid]).await.unwrap();
    Token {
        stream: Uuid::parse_str(&stream.uid).unwrap(),
        log: Log {
            epoch: row.get(0),
            system_identifier: row.get::<_, String>(1).parse().unwrap(),
            timeline: row.get::<_, i64>(2).try_into().unwrap(),
        },
        options: 0,
        position: Position { lsn, events },
    }
}

/// Acknowledges, and answers what is on record then.
async fn acknowledge(rig: &Rig<'_>, name: &str, token: &[u8]) -> Result<u64, Status> {
    let request = AcknowledgeRequest {
        change_stream: name.into(),
        token: token.to_vec(),
    };
    let answer = rig.howdah.streams().await.acknowledge(request).await;
    answer.map(|answer| answer.into_inner().acknowledged)
}

/// The end of the server's log.
async fn wal_end(rig: &Rig<'_>) -> u64 {
    let end: i64 = rig
        .value("select (pg_current_wal_flush_lsn() - '0/0')::bigint")
        .await;
    end.unsigned_abs()
}

async fn on_record(rig: &Rig<'_>, stream: &ChangeStream) -> u64 {
    let found = get(rig.howdah, &stream.name).await.unwrap();
    found.progress.unwrap().acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_only_rises() {
    for major in MAJORS {
        let rig = database(major).await;
        let stream = made(&rig, "s", items(&rig)).await;
        let begin = on_record(&rig, &stream).await;
        rig.run("set synchronous_commit = on; insert into items values (1, 'a')")
            .await;
        let end = wal_end(&rig).await;
        assert!(end > begin);
        let at = |lsn, events| token(&rig, &stream, lsn, events);
        let newest = at(end, 3).await.encode();
        assert_eq!(acknowledge(&rig, &stream.name, &newest).await.unwrap(), end);
        assert_eq!(on_record(&rig, &stream).await, end);
        // Older ones change nothing, and the same again is no error.
        for older in [at(begin, 0).await, at(end, 2).await, at(end, 3).await] {
            let answer = acknowledge(&rig, &stream.name, &older.encode()).await;
            assert_eq!(answer.unwrap(), end);
        }
        let metadata = Metadata::of(rig.howdah).await;
        let events = "select acknowledged_events from change_streams where uid = $1::text::uuid";
        let row = metadata.0.query_one(events, &[&stream.uid]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 3);
        // The etag is of what the user has asked for.
        let now = get(rig.howdah, &stream.name).await.unwrap();
        assert_eq!(now.etag, stream.etag);
        delete(rig.howdah, &stream.name, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_share_statements() {
    let rig = database("18").await;
    let stream = made(&rig, "s", items(&rig)).await;
    let begin = on_record(&rig, &stream).await;
    rig.run(
        "set synchronous_commit = on;
         select pg_logical_emit_message(true, 'test', repeat('x', 100000))",
    )
    .await;
    let before = queries(rig.howdah, "change_streams.acknowledge").await;
    let base = token(&rig, &stream, begin, 0).await;
    let calls = (1..=200_u64).map(|number| {
        let position = Position {
            lsn: begin + number * 100,
            events: 0,
        };
        let token = Token { position, ..base }.encode();
        let (rig, name) = (&rig, &stream.name);
        async move { (position.lsn, acknowledge(rig, name, &token).await.unwrap()) }
    });
    for (asked, answered) in futures::future::join_all(calls).await {
        assert!(answered >= asked, "{answered} is before {asked}");
    }
    assert_eq!(on_record(&rig, &stream).await, begin + 20_000);
    let statements = queries(rig.howdah, "change_streams.acknowledge").await - before;
    assert!(statements < 200, "{statements} statements");
    delete(rig.howdah, &stream.name, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_refused_with_its_reason() {
    for major in MAJORS {
        let rig = database(major).await;
        let stream = made(&rig, "s", items(&rig)).await;
        let begin = on_record(&rig, &stream).await;
        let right = token(&rig, &stream, wal_end(&rig).await, 0).await;
        let ahead = Token {
            position: Position {
                lsn: right.position.lsn + (1 << 30),
                events: 0,
            },
            ..right
        };
        let mut damaged = right.encode();
        damaged[40] ^= 1;
        let of = |log| Token { log, ..right }.encode();
        let foreign = (Code::FailedPrecondition, "TOKEN_FOREIGN");
        let wrong = [
            (damaged, (Code::InvalidArgument, "FIELD_INVALID")),
            (vec![1], (Code::InvalidArgument, "FIELD_INVALID")),
            (ahead.encode(), (Code::FailedPrecondition, "TOKEN_AHEAD")),
            (
                Token {
                    stream: Uuid::new_v4(),
                    ..right
                }
                .encode(),
                foreign,
            ),
            (
                Token {
                    options: 7,
                    ..right
                }
                .encode(),
                foreign,
            ),
            (
                of(Log {
                    system_identifier: 1,
                    ..right.log
                }),
                foreign,
            ),
            (
                of(Log {
                    timeline: right.log.timeline + 1,
                    ..right.log
                }),
                foreign,
            ),
            (
                of(Log {
                    epoch: right.log.epoch + 1,
                    ..right.log
                }),
                foreign,
            ),
        ];
        for (token, (code, reason)) in wrong {
            let answer = acknowledge(&rig, &stream.name, &token).await;
            refused(answer.map(Response::new), code, reason);
        }
        assert_eq!(on_record(&rig, &stream).await, begin);
        let absent = format!("{}-absent", stream.name);
        let answer = acknowledge(&rig, &absent, &right.encode()).await;
        refused(
            answer.map(Response::new),
            Code::NotFound,
            "CHANGE_STREAM_NOT_FOUND",
        );
        rig.run(&format!(
            "select pg_drop_replication_slot('{}')",
            stream.slot
        ))
        .await;
        eventually("it is lost", async || {
            get(rig.howdah, &stream.name).await.unwrap().state() == State::Lost
        })
        .await;
        let answer = acknowledge(&rig, &stream.name, &right.encode()).await;
        refused(
            answer.map(Response::new),
            Code::FailedPrecondition,
            "SLOT_LOST",
        );
        delete(rig.howdah, &stream.name, false).await;
    }
}
