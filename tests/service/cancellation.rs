//! Clients that go away at random moments of their mutations.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use howdah::pb::{
    google::longrunning::Operation,
    v1::{
        CreateDatabaseRequest, Database, GetInstanceRequest, StartInstanceRequest,
        StopInstanceRequest, database_service_client::DatabaseServiceClient,
        instance_service_client::InstanceServiceClient,
    },
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use super::rig::{Metadata, PATIENCE, superuser};
use crate::support::howdah::{
    Howdah, Options, create_database, eventually, instance_name, reason, succeeded,
};

/// How many clients call at once.
const CLIENTS: usize = 16;

/// Of so many mutations one makes a database.
const EVERY: u64 = 50;

/// SplitMix64: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// What is asked for. All are real commits, and cheap to carry out.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Starts what runs: done at once.
    Start,
    /// Stops what is stopped: done at once.
    Stop,
    /// A database whose owner is somebody else's role: accepted, tried, taken back.
    Taken,
    /// A database.
    Database,
}

/// A mutation, and how its client goes away.
#[derive(Clone, Debug)]
struct Mutation {
    number: u64,
    kind: Kind,
    request_id: String,
    /// From the call on.
    leaves_after: Duration,
    /// By a reset of its connection, not of the stream alone.
    resets: bool,
}

impl Mutation {
    fn draw(number: u64, random: &mut Random) -> Self {
        let kind = match number % EVERY {
            0 => Kind::Database,
            1..=3 => Kind::Taken,
            at if at % 2 == 0 => Kind::Start,
            _ => Kind::Stop,
        };
        // Some wait for longer, so that every part of a call is met.
        let patience = if random.next().is_multiple_of(4) {
            50_000
        } else {
            5000
        };
        Self {
            number,
            kind,
            request_id: Uuid::from_u64_pair(random.next(), random.next()).to_string(),
            leaves_after: Duration::from_micros(random.next() % patience),
            resets: random.next().is_multiple_of(5),
        }
    }

    async fn send(&self, channel: Channel) -> Result<Response<Operation>, Status> {
        let request_id = self.request_id.clone();
        match self.kind {
            Kind::Start => {
                let request = StartInstanceRequest {
                    name: instance_name("up"),
                    request_id,
                    ..StartInstanceRequest::default()
                };
                InstanceServiceClient::new(channel)
                    .start_instance(request)
                    .await
            }
            Kind::Stop => {
                let request = StopInstanceRequest {
                    name: instance_name("down"),
                    request_id,
                    ..StopInstanceRequest::default()
                };
                InstanceServiceClient::new(channel)
                    .stop_instance(request)
                    .await
            }
            Kind::Taken | Kind::Database => {
                let owner = match self.kind {
                    Kind::Taken => format!("taken_{}", self.number),
                    _ => String::new(),
                };
                let request = CreateDatabaseRequest {
                    database: Some(Database {
                        owner,
                        ..Database::default()
                    }),
                    request_id,
                    ..create_database("orders", &format!("d{}", self.number))
                };
                DatabaseServiceClient::new(channel)
                    .create_database(request)
                    .await
            }
        }
    }

    /// Sends it and goes away; the name of the operation if the answer was faster.
    async fn begin(&self, howdah: &Howdah, shared: &Channel) -> Option<String> {
        let channel = match self.resets {
            true => reset_when_closed(howdah.endpoint()).await,
            false => shared.clone(),
        };
        match timeout(self.leaves_after, self.send(channel)).await.ok()? {
            Ok(answer) => Some(answer.into_inner().name),
            // The connection that it shared was ended, for too many streams that were
            // reset: from here on it is as if it had left.
            Err(status) if reason(&status).is_empty() => None,
            Err(status) => panic!("{self:?}: {status:?}"),
        }
    }
}

/// A connection that the kernel resets when it is dropped.
async fn reset_when_closed(address: String) -> Channel {
    let connect = tower::service_fn(move |_| {
        let address = address.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_zero_linger()?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connect).await.unwrap()
}

/// Three instances: for databases, one that runs, one that is stopped.
async fn prepare(howdah: &Howdah, count: u64) {
    for id in ["orders", "up", "down"] {
        howdah.instance(id).await;
    }
    let request = StopInstanceRequest {
        name: instance_name("down"),
        ..StopInstanceRequest::default()
    };
    let answer = howdah.instances().await.stop_instance(request).await;
    howdah.wait(answer.unwrap().get_ref()).await;
    let roles = format!(
        "do $$ begin for n in 0..{count} loop
            execute format('create role taken_%s', n); end loop; end $$"
    );
    let client = superuser(howdah, "orders", "postgres").await;
    client.batch_execute(&roles).await.unwrap();
}

const NEW: &str = "operations where verb = 'create' and parent_uid is not null
    or verb in ('start', 'stop') and parameters = 'null'";

/// Nothing is half done, whatever was asked for and by whom.
async fn everything_is_whole(metadata: &Metadata) {
    let end = Instant::now() + PATIENCE;
    while metadata.count("operations where end_time is null").await > 0 {
        assert!(Instant::now() < end, "operations do not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eventually("no session is left in a transaction", async || {
        let open = "pg_stat_activity where datname = current_database()
            and pid <> pg_backend_pid() and state like 'idle in transaction%'";
        metadata.count(open).await == 0
    })
    .await;
    for (what, query) in [
        (
            "requests without their operation",
            "requests r where not exists (select from operations o where o.id = r.operation_id)",
        ),
        (
            "databases without a successful creation",
            "databases d where state <> 'READY' or not exists (select from operations o
                where o.target_uid = d.uid and verb = 'create' and o.state = 'SUCCEEDED')",
        ),
        (
            "successful creations without a database",
            "operations o where verb = 'create' and parent_uid is not null
                and state = 'SUCCEEDED'
                and not exists (select from databases d where d.uid = o.target_uid)",
        ),
        (
            "roles without a database",
            "roles r where not exists (select from databases d where d.uid = r.database_uid)",
        ),
        (
            "failures for another reason",
            "operations where failure is not null and failure ->> 'reason' <> 'ROLE_EXISTS'",
        ),
    ] {
        assert_eq!(metadata.count(query).await, 0, "{what}");
    }
}

/// `count` mutations of clients that leave, by `seed`.
pub(crate) async fn clients_leave(count: u64, seed: u64) {
    // A mutation whose client has left keeps its place: there must be enough for all.
    let many = "100000";
    let options = Options::external()
        .await
        .with("HOWDAH_SERVER_MAX_IN_FLIGHT", many)
        .with("HOWDAH_SERVER_MAX_IN_FLIGHT_PER_CALLER", many);
    let howdah = Howdah::serve(options).await;
    prepare(&howdah, count).await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.count(NEW).await;
    let mut random = Random(seed);
    let mutations: Vec<Mutation> = (0..count)
        .map(|number| Mutation::draw(number, &mut random))
        .collect();
    let shared = howdah.channel().await;
    let answers: Vec<Option<String>> = stream::iter(&mutations)
        .map(|mutation| mutation.begin(&howdah, &shared))
        .buffered(CLIENTS)
        .collect()
        .await;
    let left = answers.iter().filter(|answer| answer.is_none()).count();
    let share = usize::try_from(count).unwrap() / 10;
    assert!(left > share, "{left} of {count} went away");
    everything_is_whole(&metadata).await;
    let accepted = metadata.count(NEW).await - before;
    assert!(accepted > i64::try_from(share).unwrap(), "{accepted}");

    // Asked again, each is done exactly once in all.
    let names: Vec<String> = stream::iter(&mutations)
        .map(|mutation| mutation.send(shared.clone()))
        .buffered(CLIENTS)
        .map(|answer| answer.unwrap().into_inner().name)
        .collect()
        .await;
    for (first, again) in answers.iter().zip(&names) {
        assert!(first.as_ref().is_none_or(|first| first == again));
    }
    everything_is_whole(&metadata).await;
    assert_eq!(metadata.count(NEW).await - before, count as i64);
    let databases = metadata.count("databases").await;
    assert_eq!(databases, count.div_ceil(EVERY) as i64);
    let client = superuser(&howdah, "orders", "postgres").await;
    let made = "select count(*) from pg_database where datname ~ '^d[0-9]+$'";
    let made: i64 = client.query_one(made, &[]).await.unwrap().get(0);
    assert_eq!(made, databases);
    the_pool_works(&howdah).await;
    eprintln!("{left} of {count} clients went away, {accepted} were heard before");
}

/// More calls at once than there are connections are answered.
async fn the_pool_works(howdah: &Howdah) {
    let channel = howdah.channel().await;
    let calls = stream::iter(0..100).map(|_| {
        let mut client = InstanceServiceClient::new(channel.clone());
        let name = instance_name("up");
        async move { client.get_instance(GetInstanceRequest { name }).await }
    });
    let answers: Vec<_> = calls.buffer_unordered(50).collect().await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let _: Database = succeeded(
        &howdah
            .wait(
                howdah
                    .databases()
                    .await
                    .create_database(create_database("orders", "last"))
                    .await
                    .unwrap()
                    .get_ref(),
            )
            .await,
    );
}

#[tokio::test]
async fn clients_that_leave_a_thousand_mutations() {
    clients_leave(1000, 7).await;
}
