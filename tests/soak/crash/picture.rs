//! What is there after an operation, told so that two ends can be compared, and what
//! must not be left over.

use howdah::{
    pb::{
        google::longrunning::{Operation, operation::Result},
        v1::{
            Connection, GetChangeStreamRequest, Instance, OperationMetadata, instance,
            operation_metadata::stage,
        },
    },
    pg,
};
use prost::Message as _;

use super::world::{Subject, World, connect};
use crate::support::howdah::{eventually, instance_name};

/// The end of an operation, without what differs from run to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Picture {
    operation: String,
    stages: Vec<String>,
    instance: String,
    /// Kinds and states of all operations on the instance and its databases.
    history: Vec<String>,
    running: usize,
    server: Vec<String>,
    /// The same of all that is simulated, whether it runs or not.
    simulated: Vec<String>,
    shop: String,
    stream: String,
}

impl Picture {
    pub async fn take(world: &World, subject: &Subject, operation: &Operation) -> Self {
        let instance = world.instance(subject).await;
        let running = instance.as_ref().is_some_and(is_up);
        let uid = instance.as_ref().map(|found| found.servers[0].uid.clone());
        nothing_leaked(world, uid.as_deref(), running).await;
        Self {
            operation: outcome(operation),
            stages: stages(operation),
            instance: instance.as_ref().map_or_else(|| "none".into(), describe),
            history: history(world, subject).await,
            running: world.running(),
            server: match &subject.keeper {
                Some(keeper) if running => inside(keeper).await,
                _ => Vec::new(),
            },
            simulated: match &world.simulated {
                Some(simulated) => simulated.picture().await,
                None => Vec::new(),
            },
            shop: shop(world, subject).await,
            stream: stream(world, subject).await,
        }
    }
}

fn is_up(found: &Instance) -> bool {
    found.state() == instance::State::Ready
}

fn describe(found: &Instance) -> String {
    let mut conditions: Vec<String> = found
        .conditions
        .iter()
        .map(|c| format!("{} {:?} {}", c.r#type, c.status(), c.reason))
        .collect();
    conditions.sort();
    let (state, reconciling) = (found.state(), found.reconciling);
    let (deleted, reachable) = (found.delete_time.is_some(), found.endpoint.is_some());
    format!("{state:?} {reconciling} {deleted} {reachable} {conditions:?}")
}

fn outcome(operation: &Operation) -> String {
    assert!(operation.done);
    match &operation.result {
        Some(Result::Response(any)) => any.type_url.clone(),
        Some(Result::Error(status)) => format!("{} {}", status.code, status.message),
        None => panic!("{operation:?} is done without a result"),
    }
}

fn stages(operation: &Operation) -> Vec<String> {
    let metadata = operation.metadata.as_ref().unwrap();
    let metadata = OperationMetadata::decode(metadata.value.as_slice()).unwrap();
    let told = |stage: &howdah::pb::v1::operation_metadata::Stage| {
        let over = stage.state() != stage::State::Pending;
        assert_eq!(stage.end_time.is_some(), over, "{stage:?}");
        format!(
            "{} {:?} {}",
            stage.name,
            stage.state(),
            stage.progress_percent
        )
    };
    metadata.stages.iter().map(told).collect()
}

async fn history(world: &World, subject: &Subject) -> Vec<String> {
    let sql = "select kind || ' ' || state from operations
         where target = $1 or target like $1 || '/%' order by create_time";
    let name = instance_name(&subject.id);
    let rows = world.metadata.query(sql, &[&name]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// What is on the instance's server, as the owner of `keeper` sees it; the password
/// is the one of old, and what was written is there.
async fn inside(keeper: &Connection) -> Vec<String> {
    let client = connect(keeper).await;
    let kept: i64 = one(&client, "select count(*) from kept").await;
    assert_eq!(kept, 1, "what was written before");
    let idle = "select (select count(*) from pg_locks where locktype = 'advisory')
        + (select count(*) from pg_stat_activity where usename = 'howdah_admin'
            and datname is not null)
        + (select count(*) from pg_prepared_xacts)
        + (select count(*) from pg_replication_slots
            where active or confirmed_flush_lsn is null or slot_name !~ '^howdah_[0-9a-f]{32}$')";
    eventually("nobody works on the server", async || {
        one::<i64>(&client, idle).await == 0
    })
    .await;
    roles_and_databases(&client).await
}

pub async fn roles_and_databases(client: &pg::Client) -> Vec<String> {
    let sql = "select 'role ' || rolname || ' '
            || coalesce(split_part(shobj_description(oid, 'pg_authid'), ' ', 2), '')
            from pg_roles where rolname !~ '^pg_'
        union all select 'database ' || datname || ' ' || pg_get_userbyid(datdba) || ' '
            || (datname ~ '^(template|postgres)' or has_database_privilege(
                'pg_monitor', datname, 'connect,temporary'))
            from pg_database
        union all select 'slot ' || left(slot_name, 7) || ' of ' || database
            from pg_replication_slots
        union all select 'publication ' || left(pubname, 7) || right(pubname, 2)
            from pg_publication order by 1";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn shop(world: &World, subject: &Subject) -> String {
    let connection = match world.connection(subject, "shop").await {
        Ok(connection) => connection,
        Err(status) => return format!("{:?}", status.code()),
    };
    if let Some(former) = &subject.shop {
        assert_eq!(former.password, connection.password);
    }
    let client = connect(&connection).await;
    one(&client, "select current_user || '@' || current_database()").await
}

async fn stream(world: &World, subject: &Subject) -> String {
    let request = GetChangeStreamRequest {
        name: format!("{}/changeStreams/audit", instance_name(&subject.id)),
    };
    match world
        .howdah
        .streams()
        .await
        .get_change_stream(request)
        .await
    {
        Ok(stream) => stream.get_ref().state().as_str_name().to_owned(),
        Err(status) => format!("{:?}", status.code()),
    }
}

async fn one<T>(client: &pg::Client, sql: &str) -> T
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Sees that there is nothing but the server `uid`, if one is named: no process, no
/// file, no row, no lock, no session.
pub async fn nothing_leaked(world: &World, uid: Option<&str>, running: bool) {
    let expected: Vec<String> = uid.into_iter().map(str::to_owned).collect();
    match &world.simulated {
        None => nothing_local_leaked(world, &expected, running).await,
        Some(simulated) => {
            nothing_local_leaked(world, &[], false).await;
            assert_eq!(simulated.uids(), expected, "the simulated world");
            assert_eq!(simulated.running(), usize::from(running));
        }
    }
    metadata(world, expected.len()).await;
}

async fn nothing_local_leaked(world: &World, expected: &[String], running: bool) {
    let howdah = &world.howdah;
    eventually("only the server runs", async || {
        howdah.processes().len() == usize::from(running) + 1
    })
    .await;
    assert_eq!(howdah.servers().len(), usize::from(running));
    assert_eq!(howdah.local("servers"), expected, "local/servers");
    for name in howdah.local("locks") {
        let known =
            expected.contains(&name) || name.starts_with("template-") || name == "metadata-id";
        assert!(known, "local/locks/{name}");
    }
    for name in howdah.local("templates") {
        let unfinished = name.rsplit('.').next().unwrap().len() == 32;
        assert!(!unfinished, "local/templates/{name}");
    }
    // Everything that is removed here is ephemeral, purged or taken back.
    assert_eq!(howdah.local("trash"), [""; 0], "local/trash");
    sockets(world, expected);
}

/// Directories of sockets are those of the server that is there, at most.
fn sockets(world: &World, expected: &[String]) {
    let allowed: Vec<String> = expected.iter().map(|uid| uid.replace('-', "")).collect();
    let Ok(run) = std::fs::read_dir(world.howdah.directory().join("run")) else {
        return;
    };
    for own in run {
        for entry in std::fs::read_dir(own.unwrap().path()).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            assert!(allowed.contains(&name), "run/*/{name}");
        }
    }
}

async fn metadata(world: &World, instances: usize) {
    let client = &world.metadata;
    let rows = "select (select count(*) from instances) || ' ' || (select count(*) from servers)
        || ' ' || (select count(*) from roles where uid not in (select r.uid from roles r
            join databases d on d.uid = r.database_uid))
        || ' ' || (select count(*) from subscriptions)";
    let found: String = one(client, rows).await;
    assert_eq!(found, format!("{instances} {instances} 0 0"), "rows");
    let busy = "select (select count(*) from operations where end_time is null)
        + (select count(*) from operations where end_time is not null
            and (worker is not null or lease_until is not null))
        + (select count(*) from pg_stat_activity where datname = current_database()
            and state like 'idle in transaction%')
        + (select count(*) from pg_locks where locktype = 'advisory'
            and database = (select oid from pg_database where datname = current_database()))";
    eventually("the metadata is at rest", async || {
        one::<i64>(client, busy).await == 0
    })
    .await;
}
