//! The metadata in another place: an older backup, a newer major of PostgreSQL.

use std::{path::PathBuf, time::Instant};

use howdah::pb::v1::{Database, GetDatabaseRequest, GetInstanceRequest};
use tonic::Code;

use super::{load::INSTANCE, serving::Serving};
use crate::{
    service::rig::{failure, refused},
    support::{
        health::Health,
        howdah::{create_database, eventually, instance_name, succeeded},
        metadata_server::{DATABASE, MetadataServer, ROLE},
        postgres::{PASSWORD, SUPERUSER, Server},
    },
};

/// Everything in the metadata, as `pg_restore` reads it.
fn dump(server: &Server) -> PathBuf {
    let file = server.dir.join("dump");
    let dumped = server
        .command("pg_dump")
        .args(["-Fc", "-U", SUPERUSER, "-p", &server.port.to_string(), "-h"])
        .arg(&server.dir)
        .arg("-f")
        .arg(&file)
        .arg(DATABASE)
        .output()
        .unwrap();
    assert!(dumped.status.success(), "{dumped:?}");
    file
}

/// Fills an empty database of `server` with a dump of `source`.
fn restore(source: &Server, server: &Server, file: &std::path::Path) {
    let restored = source
        .command("pg_restore")
        .args(["--exit-on-error", "-U", SUPERUSER, "-d", DATABASE])
        .args(["-p", &server.port.to_string(), "-h"])
        .arg(&server.dir)
        .arg(file)
        .output()
        .unwrap();
    assert!(restored.status.success(), "{restored:?}");
}

/// Restored while it serves: what is younger than the backup is not on record any more,
/// and what was made of it is nobody's that Howdah knows.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_is_restored() {
    let serving = Serving::start(MetadataServer::start().await).await;
    let (howdah, metadata) = (&serving.howdah, &serving.metadata);
    let file = dump(&metadata.server);
    howdah.database(INSTANCE, "young").await;

    let since = Instant::now();
    serving.shut().await;
    let create = format!("create database {DATABASE} owner {ROLE} template template0");
    metadata
        .administer(&format!("drop database {DATABASE}"))
        .await;
    serving.is_away(since).await;
    metadata.administer(&create).await;
    restore(&metadata.server, &metadata.server, &file);
    serving.serves_again(Instant::now()).await;

    let name = format!("{}/databases/young", instance_name(INSTANCE));
    let request = GetDatabaseRequest { name };
    let mut databases = howdah.databases().await;
    let answer = databases.get_database(request).await;
    refused(answer, Code::NotFound, "DATABASE_NOT_FOUND");
    // What is there under that name is somebody else's.
    let request = create_database(INSTANCE, "young");
    let answer = databases.create_database(request).await.unwrap();
    let (code, why) = failure(&howdah.wait(answer.get_ref()).await);
    assert_eq!(code, Code::AlreadyExists, "{why}");
    let request = create_database(INSTANCE, "other");
    let answer = databases.create_database(request).await.unwrap();
    let _: Database = succeeded(&howdah.wait(answer.get_ref()).await);
}

/// The database is dropped and created empty while Howdah serves. Howdah makes no tables
/// in it, since an administrator may be restoring it, and logs how to begin anew.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_takes_its_place() {
    let mut serving = Serving::start(MetadataServer::start().await).await;
    let since = Instant::now();
    serving.shut().await;
    let metadata = &serving.metadata;
    let drop = format!("drop database {DATABASE}");
    metadata.administer(&drop).await;
    serving.is_away(since).await;
    let create = format!("create database {DATABASE} owner {ROLE} template template0");
    metadata.administer(&create).await;
    eventually("the log says what to do", async || {
        serving.howdah.log().contains("is filled at the next start")
    })
    .await;
    assert_eq!(serving.health().await, Health::DOWN);
    let client = metadata.client().await;
    let tables = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
    let tables = client.query_one(tables, &[]).await.unwrap();
    assert_eq!(tables.get::<_, i64>(0), 0);

    serving.howdah.stop().await;
    // The servers are on record in the former metadata.
    let began = serving.howdah.run(&["serve"], "");
    let said = String::from_utf8_lossy(&began.stderr);
    assert!(said.contains("LOCAL_ROOT_MISMATCH"), "{said}");
    let adopted = serving.howdah.run(&["metadata", "adopt-root"], "");
    assert!(adopted.status.success(), "{adopted:?}");
    serving.howdah.start("").await;
    let name = instance_name(INSTANCE);
    let request = GetInstanceRequest { name };
    let answer = serving.howdah.instances().await.get_instance(request).await;
    refused(answer, Code::NotFound, "INSTANCE_NOT_FOUND");
    serving.howdah.instance("another").await;
    serving.howdah.database("another", "shop").await;
}

/// The backup was taken while an operation was under way, which has ended since: it is
/// done again, and finds its own work.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_with_an_operation_under_way_is_restored() {
    let metadata = MetadataServer::start().await;
    // Not for the first database, which is there before.
    let slow = "database.create.role.before_commit=1*off->1*sleep(4000)";
    let options = metadata.options().with("FAILPOINTS", slow);
    let serving = Serving::with(metadata, options).await;
    let (howdah, metadata) = (&serving.howdah, &serving.metadata);
    let request = create_database(INSTANCE, "shop");
    let answer = howdah.databases().await.create_database(request).await;
    let operation = answer.unwrap().into_inner();
    let client = metadata.client().await;
    let running = "select count(*) from operation_stages where name = 'role' and state = 'RUNNING'";
    eventually("the step is under way", async || {
        let found = client.query_one(running, &[]).await.unwrap();
        found.get::<_, i64>(0) == 1
    })
    .await;
    drop(client);
    let file = dump(&metadata.server);
    let made: Database = succeeded(&howdah.wait(&operation).await);

    serving.shut().await;
    for sql in [
        format!("drop database {DATABASE}"),
        format!("create database {DATABASE} owner {ROLE} template template0"),
    ] {
        metadata.administer(&sql).await;
    }
    restore(&metadata.server, &metadata.server, &file);
    serving.serves_again(Instant::now()).await;
    let now = howdah.operation(&operation.name).await;
    let again: Database = succeeded(&howdah.wait(&now).await);
    assert_eq!((again.name, again.uid), (made.name, made.uid));
    howdah.connection(INSTANCE, "shop").await;
}

/// Moved to PostgreSQL 18 while it serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_major_takes_over() {
    let mut serving = Serving::start(MetadataServer::start().await).await;
    let newer = tokio::task::block_in_place(|| Server::start(18, &[]));
    let client = newer.client("postgres").await;
    for sql in [
        format!("create role {ROLE} login password '{PASSWORD}'"),
        format!("create database {DATABASE} owner {ROLE} template template0"),
    ] {
        client.batch_execute(&sql).await.unwrap();
    }
    let since = Instant::now();
    serving.metadata.proxy.refuse().await;
    let older = &serving.metadata.server;
    restore(older, &newer, &dump(older));
    serving.is_away(since).await;
    serving.metadata.proxy.upstream(newer.port);
    serving.metadata.proxy.pass();
    serving.metadata.server = newer;
    serving.serves_again(Instant::now()).await;
    let client = serving.metadata.client().await;
    let version = client.query_one("show server_version_num", &[]).await;
    assert!(version.unwrap().get::<_, String>(0).starts_with("18"));
}
