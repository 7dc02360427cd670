//! Howdah is killed at random moments while clients change things, and all of it
//! comes to rest in the end.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use howdah::pb::v1::instance::State;
use tonic::{Code, Status};

use super::{
    Numbers,
    crash::{
        picture::nothing_leaked,
        scenario::Act,
        world::{Subject, World, connect, request_id},
    },
    deadline, seed,
};
use crate::support::howdah::{OPERATION_LIMIT, signal};

/// Without a bound from outside.
const SHORT: Duration = Duration::from_secs(20);

const CLIENTS: usize = 3;

const ACTS: [Act; 9] = [
    Act::Create { ephemeral: true },
    Act::Create { ephemeral: false },
    Act::CreateShop,
    Act::DeleteShop,
    Act::Start,
    Act::Stop,
    Act::Delete,
    Act::Undelete,
    Act::Purge,
];

#[tokio::test(flavor = "multi_thread")]
async fn random() {
    let end = deadline().unwrap_or_else(|| Instant::now() + SHORT);
    let mut numbers = Numbers(seed());
    let mut world = World::new().await;
    let subjects: Vec<Subject> = (0..CLIENTS).map(|_| world.subject()).collect();
    let (accepted, refused, mut kills) = (AtomicUsize::new(0), AtomicUsize::new(0), 0);
    while Instant::now() < end {
        let life = Duration::from_millis(200 + numbers.next() % 2500);
        let over = AtomicBool::new(false);
        let clients = subjects.iter().map(|subject| {
            let mut numbers = Numbers(numbers.next());
            let (world, over) = (&world, &over);
            let (accepted, refused) = (&accepted, &refused);
            async move {
                while !over.load(Ordering::Relaxed) {
                    let act = ACTS[numbers.below(ACTS.len())];
                    match change(world, subject, act).await {
                        Ok(()) => accepted.fetch_add(1, Ordering::Relaxed),
                        Err(()) => refused.fetch_add(1, Ordering::Relaxed),
                    };
                    let pause = Duration::from_millis(numbers.next() % 300);
                    tokio::time::sleep(pause).await;
                }
            }
        });
        let clients = futures::future::join_all(clients);
        let killer = async {
            tokio::time::sleep(life).await;
            over.store(true, Ordering::Relaxed);
            signal(world.howdah.pid(), "KILL");
        };
        tokio::join!(clients, killer);
        world.howdah.kill().await;
        kills += 1;
        world.howdah.start("").await;
    }
    let (accepted, refused) = (accepted.into_inner(), refused.into_inner());
    eprintln!("random kills: {kills} kills, {accepted} operations, {refused} refusals");
    assert!(kills > 0 && accepted > 0);
    at_rest(&world).await;
    for subject in &subjects {
        consistent(&world, subject).await;
        world.clean_up(subject).await;
    }
    nothing_leaked(&world, None, false).await;
}

/// Asks for a change; that it is refused or cut off is no failure.
async fn change(world: &World, subject: &Subject, act: Act) -> Result<(), ()> {
    match world.ask(subject, act, &request_id()).await {
        Ok(_) => Ok(()),
        Err(status) => {
            assert!(expected(&status), "{act:?}: {status:?}");
            Err(())
        }
    }
}

fn expected(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Aborted
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Cancelled
            // A connection that was cut.
            | Code::Unknown
    )
}

/// Waits until every operation is done. None has failed, but those whose instance a
/// forced deletion took away.
async fn at_rest(world: &World) {
    let end = Instant::now() + OPERATION_LIMIT;
    let open = "select count(*) from operations where end_time is null";
    loop {
        let open = world.metadata.query_one(open, &[]).await.unwrap();
        if open.get::<_, i64>(0) == 0 {
            break;
        }
        assert!(Instant::now() < end, "operations are not done");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let failed = "select kind || ' ' || target || ' ' || failure::text from operations
         where state <> 'SUCCEEDED' and failure ->> 'reason' is distinct from 'INSTANCE_DELETED'";
    let failed = world.metadata.query(failed, &[]).await.unwrap();
    let failed: Vec<String> = failed.iter().map(|row| row.get(0)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// What the answers say of an instance is so.
async fn consistent(world: &World, subject: &Subject) {
    let Some(instance) = world.instance(subject).await else {
        return;
    };
    let server = format!("/{}/", instance.servers[0].uid);
    let processes = world.howdah.processes();
    let up = processes.iter().any(|line| line.contains(&server));
    match instance.state() {
        State::Ready => assert!(up, "{instance:?}"),
        State::Stopped | State::Deleted => assert!(!up, "{instance:?}"),
        other => panic!("{other:?} at rest"),
    }
    if let Ok(connection) = world.connection(subject, "shop").await
        && up
    {
        let client = connect(&connection).await;
        client.batch_execute("select 1").await.unwrap();
    }
}
