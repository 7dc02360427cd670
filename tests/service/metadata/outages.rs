//! What the owners of the metadata's server do to it: each is told to callers as what it
//! is, health says so, and the service goes on by itself afterwards.

use std::time::{Duration, Instant};

use howdah::pg;

use super::serving::Serving;
use crate::support::{
    howdah::Options,
    metadata_server::{DATABASE, MetadataServer, ROLE},
    postgres::{LIMIT, PASSWORD, tls::Authority},
};

/// A superuser's SQL keeps new sessions away, the old ones are ended, and other SQL lets
/// them in again.
async fn kept_away(wrong: &str, right: &str) {
    let serving = Serving::start(MetadataServer::start().await).await;
    let metadata = &serving.metadata;
    metadata.administer(wrong).await;
    metadata.terminate().await;
    // Those that had been let in just before were not to be seen yet.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let since = Instant::now();
    metadata.terminate().await;
    serving.is_away(since).await;
    metadata.administer(right).await;
    serving.serves_again(Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_password_is_rotated() {
    let wrong = format!("alter role {ROLE} password 'another'");
    let right = format!("alter role {ROLE} password '{PASSWORD}'");
    kept_away(&wrong, &right).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_role_may_not_log_in() {
    let wrong = format!("alter role {ROLE} nologin");
    kept_away(&wrong, &format!("alter role {ROLE} login")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_role_may_not_connect() {
    let wrong = format!("revoke connect on database {DATABASE} from public, {ROLE}");
    let right = format!("grant connect on database {DATABASE} to {ROLE}");
    kept_away(&wrong, &right).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_role_has_no_connection_left() {
    let wrong = format!("alter role {ROLE} connection limit 0");
    kept_away(&wrong, &format!("alter role {ROLE} connection limit -1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_database_admits_nobody() {
    let wrong = format!("alter database {DATABASE} allow_connections false");
    let right = format!("alter database {DATABASE} allow_connections true");
    kept_away(&wrong, &right).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_database_is_renamed() {
    let serving = Serving::start(MetadataServer::start().await).await;
    let since = Instant::now();
    serving.shut().await;
    let metadata = &serving.metadata;
    metadata
        .administer("alter database metadata rename to elsewhere")
        .await;
    serving.is_away(since).await;
    for sql in [
        "alter database elsewhere rename to metadata",
        "alter database metadata allow_connections true",
    ] {
        metadata.administer(sql).await;
    }
    serving.serves_again(Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_tables_are_locked_for_too_long() {
    let serving = Serving::start(MetadataServer::start().await).await;
    let client = serving.metadata.client().await;
    client
        .batch_execute("begin; lock table instances in access exclusive mode")
        .await
        .unwrap();
    let request = howdah::pb::v1::GetInstanceRequest {
        name: crate::support::howdah::instance_name(super::load::INSTANCE),
    };
    let began = Instant::now();
    let answer = serving.howdah.instances().await.get_instance(request).await;
    let status = answer.unwrap_err();
    assert_eq!(crate::support::howdah::reason(&status), "LOCK_TIMEOUT");
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    client.batch_execute("rollback").await.unwrap();
    serving.serves_again(Instant::now()).await;
}

/// Others take every connection that there is.
#[tokio::test(flavor = "multi_thread")]
async fn its_connections_are_used_up() {
    let metadata = MetadataServer::with(&[("max_connections", "16")]).await;
    let serving = Serving::start(metadata).await;
    let metadata = &serving.metadata;
    let superuser = metadata.server.client("postgres").await;
    serving.shut().await;
    // Howdah cannot take any of them meanwhile.
    let others = use_up(metadata).await;
    let open = format!("alter database {DATABASE} allow_connections true");
    superuser.batch_execute(&open).await.unwrap();
    serving.is_away(Instant::now()).await;
    drop(others);
    serving.serves_again(Instant::now()).await;
}

/// Opens sessions until the server refuses further ones.
async fn use_up(metadata: &MetadataServer) -> Vec<pg::Client> {
    let server = &metadata.server;
    let (target, login) = (server.target(), server.login_as(ROLE, "postgres"));
    let (mut others, mut refusals) = (Vec::new(), 0);
    // A session that is refused counts until it has ended.
    while refusals < 20 {
        match pg::client::connect(&target, &login, LIMIT).await {
            Ok(client) => {
                others.push(client);
                refusals = 0;
            }
            Err(_) => {
                refusals += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    others
}

/// Encryption with a certificate that Howdah checks.
#[tokio::test(flavor = "multi_thread")]
async fn its_certificate_expires() {
    let metadata = MetadataServer::start().await;
    let (authority, dir) = (Authority::new(), metadata.server.dir.clone());
    std::fs::write(dir.join("ca.pem"), &authority.pem).unwrap();
    authority.issue(&dir);
    metadata.server.control(&["reload"]);
    let (port, roots) = (metadata.proxy.port, dir.join("ca.pem"));
    let url = format!(
        "postgres://{ROLE}:{PASSWORD}@localhost:{port}/{DATABASE}?sslmode=verify-full&sslrootcert={}",
        roots.display()
    );
    let options = Options {
        database_url: Some(url),
        environment: Vec::new(),
    };
    let serving = Serving::with(metadata, options).await;
    let client = serving.metadata.client().await;
    let plain = "select count(*) from pg_stat_ssl s join pg_stat_activity a using (pid)
         where a.usename = $1 and not s.ssl";
    let plain = client.query_one(plain, &[&ROLE]).await.unwrap();
    assert_eq!(plain.get::<_, i64>(0), 0, "all of it is encrypted");

    authority.issue_expired(&dir);
    let since = Instant::now();
    cut_when_reloaded(&serving).await;
    serving.is_away(since).await;
    authority.issue(&dir);
    serving.metadata.server.control(&["reload"]);
    serving.serves_again(Instant::now()).await;
}

/// Ends the sessions once new ones meet the new certificate: the server reads it some
/// time after it was told to.
async fn cut_when_reloaded(serving: &Serving) {
    let server = &serving.metadata.server;
    server.control(&["reload"]);
    let client = server.client("postgres").await;
    let reloaded = "select pg_conf_load_time() > now() - interval '20 s'";
    crate::support::howdah::eventually("the settings are read again", async || {
        client.query_one(reloaded, &[]).await.unwrap().get(0)
    })
    .await;
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        serving.metadata.terminate().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        if !serving.health().await.serving {
            return;
        }
    }
}
