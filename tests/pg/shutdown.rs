//! A server that is stopped must not wait for us.

use std::time::{Duration, Instant};

use howdah::pg::Error;
use howdah::pg::replication::{Limits, Streaming};

use super::rig::Rig;
use crate::support::postgres::Server;

/// How long `pg_ctl stop -m fast` took.
async fn stop(server: &Server) -> Duration {
    let mut command = server.command("pg_ctl");
    command
        .args(["stop", "-m", "fast", "-t", "30", "-D"])
        .arg(server.data());
    let started = Instant::now();
    let out = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    started.elapsed()
}

/// Far more than all buffers on the way hold.
const MANY_SMALL: &str = "do $$ begin for i in 1..3000 loop
    insert into t values (i, repeat('x', 30000)); commit; end loop; end $$";
const ONE_LARGE: &str =
    "insert into t select i, repeat('x', 1000) from generate_series(1, 200000) i";

async fn stop_with_a_stalled_consumer(load: &str, streaming: Streaming) {
    let server = Server::start(15, &[]);
    let rig = Rig::new(&server).await;
    let mut stream = rig
        .stream(Limits::default(), |o| {
            o.protocol = 2;
            o.streaming = streaming;
        })
        .await;
    rig.run("alter table t alter v set storage external").await;
    rig.run(load).await;
    // Takes one segment and no more.
    let held = stream.inner.next().await.unwrap().unwrap();
    let took = stop(&server).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(held);
    assert!(matches!(stream.end().await, Error::Shutdown));
}

#[tokio::test]
async fn a_consumer_stalled_among_small_transactions_does_not_hold_up_the_server() {
    stop_with_a_stalled_consumer(MANY_SMALL, Streaming::Off).await;
}

#[tokio::test]
async fn a_consumer_stalled_inside_a_large_transaction_does_not_hold_up_the_server() {
    stop_with_a_stalled_consumer(ONE_LARGE, Streaming::Off).await;
}

#[tokio::test]
async fn a_consumer_stalled_inside_a_streamed_transaction_does_not_hold_up_the_server() {
    stop_with_a_stalled_consumer(ONE_LARGE, Streaming::On).await;
}

#[tokio::test]
async fn a_consumer_that_never_acknowledges_does_not_hold_up_the_server() {
    let server = Server::start(15, &[]);
    let rig = Rig::new(&server).await;
    let mut stream = rig.stream(Limits::default(), |_| {}).await;
    rig.run("insert into t select i, 'x' from generate_series(1, 1000) i")
        .await;
    let reading = async { stream.end().await };
    let (took, error) = tokio::join!(stop(&server), reading);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(matches!(error, Error::Shutdown), "{error:?}");
}

#[tokio::test]
async fn a_partial_acknowledgement_does_not_hold_up_the_server() {
    let server = Server::start(15, &[]);
    let rig = Rig::new(&server).await;
    let mut stream = rig.stream(Limits::default(), |_| {}).await;
    rig.run("insert into t values (1, 'a')").await;
    let mut place = None;
    stream
        .until(|message| match message {
            howdah::pg::pgoutput::Message::Commit(commit) => {
                place = Some(commit.end_lsn);
                true
            }
            _ => false,
        })
        .await;
    rig.run("insert into t values (2, 'b')").await;
    stream.inner.acknowledge(place.unwrap());
    let told = async {
        while stream.inner.confirmed() != place.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), told)
        .await
        .unwrap();
    let took = stop(&server).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(matches!(stream.end().await, Error::Shutdown));
}

#[tokio::test]
async fn a_slow_consumer_does_not_hold_up_the_server() {
    let server = Server::start(15, &[]);
    let rig = Rig::new(&server).await;
    rig.run("alter table t alter v set storage external").await;
    let limits = Limits {
        buffer: 1024 * 1024,
        ..Limits::default()
    };
    let mut stream = rig.stream(limits, |_| {}).await;
    rig.run(MANY_SMALL).await;
    let slow = async {
        loop {
            match stream.inner.next().await.unwrap() {
                Ok(_segment) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(error) => return error,
            }
        }
    };
    let (took, error) = tokio::join!(stop(&server), slow);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(matches!(error, Error::Shutdown), "{error:?}");
}
