//! What a newcomer types first, and how the command line answers.

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::timeout,
};

use super::{
    command_line::User,
    rig::{Metadata, run_sql, serve},
};
use crate::support::howdah::{Howdah, LIMIT, Options};

/// A role that follows changes can name the database as everybody does.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_names_a_database_by_its_id() {
    let mut howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    let shop = howdah.database("orders", "shop").await;
    run_sql(&shop, "create table items (id int primary key)");
    howdah.stop().await;
    howdah.options = howdah
        .options
        .clone()
        .with("HOWDAH_AUTH_ANONYMOUS_ROLE", "subscriber");
    howdah.start("").await;
    let user = User::of(&howdah);
    let mut follow = user
        .command("streams subscribe orders/shop --tables public.items --count 1")
        .spawn()
        .unwrap();
    let mut said = BufReader::new(follow.stderr.take().unwrap()).lines();
    let line = timeout(LIMIT, said.next_line()).await.unwrap().unwrap();
    assert!(line.unwrap().starts_with("subscribed: "));
    run_sql(&shop, "insert into items values (1)");
    let ended = timeout(LIMIT, follow.wait_with_output()).await.unwrap();
    let printed = String::from_utf8(ended.unwrap().stdout).unwrap();
    assert!(printed.contains("insert public.items id=1"), "{printed}");
    for words in ["databases list orders", "connection orders/shop"] {
        let refused = user.run(words).await;
        assert_eq!(refused.code, Some(7), "{words}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_are_watched() {
    let howdah = serve().await;
    let user = User::of(&howdah);
    let watch = |words: &str| {
        let mut child = user.command(words).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let hints = BufReader::new(child.stderr.take().unwrap()).lines();
        (child, lines, hints)
    };
    let (_all, mut lines, _) = watch("operations list --watch");
    let mut seen = Vec::new();
    let mut next = async || {
        let line = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
        seen.push(line.unwrap());
        seen.last().unwrap().clone()
    };
    howdah.instance("orders").await;
    while !next().await.contains(" DONE ") {}
    user.says("instances stop orders --wait").await;
    while !next().await.contains("stop ") {}
    let headers = seen.iter().filter(|line| line.starts_with("ID ")).count();
    assert_eq!(headers, 1, "{seen:?}");
    // Of those under way, one that is not found any more has ended.
    let metadata = Metadata::of(&howdah).await;
    metadata.occupy("orders").await;
    let (_open, mut lines, mut hints) = watch("operations list --watch --open");
    loop {
        let line = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
        if line.unwrap().contains("occupy") {
            break;
        }
    }
    metadata.release().await;
    let hint = timeout(LIMIT, hints.next_line()).await.unwrap().unwrap();
    let hint = hint.unwrap();
    assert!(hint.ends_with(" has ended"), "{hint}");
}

/// A command that is printed calls the server that was called.
#[tokio::test(flavor = "multi_thread")]
async fn what_to_type_next_names_the_same_server() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let nowhere = User::at("unix:/nowhere");
    let endpoint = howdah.endpoint();
    let server = format!("--endpoint {endpoint} --project default");
    let started = nowhere
        .run(&format!("databases create orders/shop {server}"))
        .await;
    assert_eq!(started.code, Some(0), "{started:?}");
    let next = started.stderr.split('`').nth(1).unwrap();
    assert!(next.ends_with(&server), "{next}");
    let waited = nowhere.run(next.strip_prefix("howdah ").unwrap()).await;
    assert_eq!(waited.code, Some(0), "{next}: {waited:?}");
    // Of a variable the next command is told anyway.
    let stopped = User::of(&howdah).run("instances stop orders").await;
    let next = stopped.stderr.split('`').nth(1).unwrap();
    assert!(!next.contains("--"), "{next}");
}
