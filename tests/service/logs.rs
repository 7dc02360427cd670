//! Logs of instances, by the API and by the command.

use std::time::Duration;

use howdah::pb::v1::{ReadInstanceLogRequest, ReadInstanceLogResponse};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::timeout,
};
use tonic::{
    Code::{InvalidArgument, NotFound, PermissionDenied, Unimplemented},
    Response, Status,
};

use super::{
    command_line::User,
    rig::{Metadata, psql, refused, serve},
    simulated::World,
};
use crate::support::howdah::{Howdah, LIMIT, Options, instance_name};

async fn read(
    howdah: &Howdah,
    position: &str,
    line_count: i32,
) -> Result<Response<ReadInstanceLogResponse>, Status> {
    let request = ReadInstanceLogRequest {
        name: instance_name("orders"),
        position: position.to_owned(),
        line_count,
    };
    howdah.instances().await.read_instance_log(request).await
}

/// An error of a user's session stands in the log of the server.
fn complain(uri: &str, word: &str) {
    let failed = psql(&[uri, "-c", &format!("select {word}_is_no_column")]);
    assert!(!failed.status.success(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_server_is_read_from_part_to_part() {
    let howdah = serve().await;
    refused(read(&howdah, "", 0).await, NotFound, "INSTANCE_NOT_FOUND");
    howdah.instance("orders").await;
    let uri = howdah.database("orders", "shop").await.uri;
    complain(&uri, "first");
    let part = read(&howdah, "", 0).await.unwrap().into_inner();
    let has = |part: &ReadInstanceLogResponse, word: &str| {
        let mut lines = part.lines.iter();
        lines.any(|line| line.contains(&format!("column \"{word}_is_no_column\" does not exist")))
    };
    assert!(has(&part, "first"), "{part:?}");
    let last = read(&howdah, "", 1).await.unwrap().into_inner();
    assert_eq!(last.lines.len(), 1);
    assert_eq!(last.next_position, part.next_position);

    complain(&uri, "second");
    let next = read(&howdah, &part.next_position, 0).await;
    let next = next.unwrap().into_inner();
    assert!(has(&next, "second") && !has(&next, "first"), "{next:?}");
    for (position, lines) in [("nonsense", 0), ("", -1), ("", 10_001)] {
        let answer = read(&howdah, position, lines).await;
        refused(answer, InvalidArgument, "FIELD_INVALID");
    }
    // Statements in it can hold secrets: who has read it is on record.
    let metadata = Metadata::of(&howdah).await;
    let reads = "audit_records where effect = 'SECRET' and method ~ 'ReadInstanceLog'
        and resource = 'projects/default/instances/orders'";
    assert!(metadata.count(reads).await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_at_the_command_line() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let uri = howdah.database("orders", "shop").await.uri;
    complain(&uri, "first");
    let user = User::of(&howdah);
    let last = user.says("instances logs orders --lines 2").await;
    assert_eq!(last.lines().count(), 2, "{last}");
    assert_eq!(user.says("instances logs orders --lines 0").await, "");
    let mut follow = user
        .command("instances logs orders -f --lines 0")
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let first = loop {
        // Until it has found where the log ends.
        complain(&uri, "later");
        let line = timeout(Duration::from_millis(500), lines.next_line()).await;
        if let Ok(line) = line {
            break line.unwrap().unwrap();
        }
    };
    assert!(first.contains("later_is_no_column"), "{first}");
    follow.kill().await.unwrap();
    let mut follow = user
        .command("instances logs orders -f --lines 2")
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut until = async |word: &str| {
        while let Some(line) = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap() {
            if line.contains(word) {
                return;
            }
        }
        panic!("it has ended");
    };
    until("later_is_no_column").await;
    complain(&uri, "second");
    until("second_is_no_column").await;
    crate::support::howdah::signal(follow.id().unwrap(), "INT");
    let status = timeout(LIMIT, follow.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(130));
}

/// A viewer sees no statements.
#[tokio::test]
async fn a_log_is_for_operators() {
    for (role, code) in [("viewer", PermissionDenied), ("operator", NotFound)] {
        let options = Options::external()
            .await
            .with("HOWDAH_AUTH_ANONYMOUS_ROLE", role);
        let howdah = Howdah::serve(options).await;
        let status = read(&howdah, "", 0).await.unwrap_err();
        assert_eq!(status.code(), code, "{role}: {status:?}");
    }
}

#[tokio::test]
async fn a_provider_without_logs_says_so() {
    let world = World::new(&[]);
    world.is(&json!({}));
    let howdah = Howdah::serve(world.options().await).await;
    howdah.instance("orders").await;
    let status = refused(read(&howdah, "", 0).await, Unimplemented, "UNIMPLEMENTED");
    assert!(
        status.message().contains("`simulated` shows no logs"),
        "{status:?}"
    );
}
