//! The life of a server.

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use howdah::{
    domain::{
        Reason,
        provider::{Disposal, Goal, Next, Presence, Provider, ServerSpec, Started},
    },
    pg::Host,
    providers::local::{Local, Settings, TlsFiles},
};
use postgres_protocol::message::frontend;
use rustix::process::{Signal, kill_process};
use rustls::pki_types::pem::PemObject as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpSocket,
};

use crate::support::{
    local::{Place, connect, end, installed, port, postmaster, server},
    postgres::tls::certificates,
};

/// When servers are thrown away by the metadata database's clock, which is not the host's.
fn thrown() -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000_000, 0).unwrap()
}

/// Makes and starts a server.
async fn create(local: &Local, spec: &mut ServerSpec) {
    let identifier = local.initialize(spec).await.unwrap();
    spec.system_identifier = Some(identifier);
    local.configure(spec).await.unwrap();
    assert_eq!(local.start(spec).await.unwrap(), Started::Now);
}

async fn text(spec: &ServerSpec, query: &str) -> String {
    let client = connect(Host::Tcp("127.0.0.1".into()), port(spec))
        .await
        .unwrap();
    client.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_server_lives_is_adopted_and_ends() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    spec.parameters.insert("work_mem".into(), "7MB".into());
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Missing);
    create(&local, &mut spec).await;
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Running);
    assert_eq!(text(&spec, "show work_mem").await, "7MB");
    assert_eq!(text(&spec, "show wal_level").await, "logical");
    assert_eq!(text(&spec, "show data_checksums").await, "on");
    assert_eq!(text(&spec, "show server_encoding").await, "UTF8");
    assert_eq!(text(&spec, "show fsync").await, "on");
    let address = local.address(&spec);
    assert_eq!(
        (address.host.as_str(), address.port),
        ("127.0.0.1", port(&spec))
    );
    let sockets = address.socket_directory.unwrap();
    connect(Host::Unix(sockets.clone()), port(&spec))
        .await
        .unwrap();

    // What a restarted Howdah sees, and whatever is asked twice.
    let next = place.local();
    assert_eq!(next.host(), local.host());
    assert_eq!(
        next.initialize(&spec).await.unwrap(),
        spec.system_identifier.unwrap()
    );
    next.configure(&spec).await.unwrap();
    assert_eq!(next.start(&spec).await.unwrap(), Started::Before);

    let watch = next.changed(&spec, Presence::Running);
    let stop = async {
        local.stop(&spec).await.unwrap();
        local.stop(&spec).await.unwrap();
    };
    let (watched, ()) = tokio::join!(watch, stop);
    watched.unwrap();
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Stopped);
    next.changed(&spec, Presence::Running).await.unwrap();
    assert_eq!(local.start(&spec).await.unwrap(), Started::Now);

    // It runs: removing stops it.
    local
        .remove(&spec, Disposal::Trash(thrown()))
        .await
        .unwrap();
    local
        .remove(&spec, Disposal::Trash(thrown()))
        .await
        .unwrap();
    local.stop(&spec).await.unwrap();
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Missing);
    assert!(!place.home(&spec).exists() && !sockets.exists());
    let left = |name: &str| {
        fs::read_dir(place.path().join("local").join(name))
            .unwrap()
            .count()
    };
    assert_eq!((left("trash"), left("locks"), left("servers")), (1, 0, 0));
    local.empty_trash(thrown()).await.unwrap();
    assert_eq!(left("trash"), 1);
    let hasty = Settings {
        trash_retention: Duration::ZERO,
        ..place.settings()
    };
    let hasty = Local::new(hasty).unwrap();
    // The host's own clock has nothing to say.
    let before = thrown() - TimeDelta::seconds(1);
    hasty.empty_trash(before).await.unwrap();
    assert_eq!(left("trash"), 1);
    hasty.empty_trash(thrown()).await.unwrap();
    assert_eq!(left("trash"), 0);
}

#[tokio::test]
async fn a_server_that_is_not_to_be_kept_leaves_nothing() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    spec.ephemeral = true;
    create(&local, &mut spec).await;
    // Of the same server, from before a restore of old metadata.
    local
        .remove(&spec, Disposal::Trash(thrown()))
        .await
        .unwrap();
    spec.system_identifier = None;
    create(&local, &mut spec).await;
    let left = |name: &str| {
        let entries = fs::read_dir(place.path().join("local").join(name)).unwrap();
        entries.count()
    };
    assert_eq!((left("trash"), left("servers")), (1, 1));
    local.remove(&spec, Disposal::Delete).await.unwrap();
    assert_eq!((left("trash"), left("servers")), (0, 0));
    local.remove(&spec, Disposal::Delete).await.unwrap();
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Missing);
}

#[tokio::test]
async fn a_killed_server_is_noticed_and_comes_back() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    create(&local, &mut spec).await;
    // A backend that is busy when its postmaster goes away.
    let busy = connect(Host::Tcp("127.0.0.1".into()), port(&spec))
        .await
        .unwrap();
    let pid = postmaster(&place.home(&spec)).unwrap();
    let watch = local.changed(&spec, Presence::Running);
    let kill = async {
        tokio::task::spawn_blocking(move || end(pid)).await.unwrap();
    };
    let (watched, ()) = tokio::join!(watch, kill);
    watched.unwrap();
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Stopped);
    assert_eq!(local.start(&spec).await.unwrap(), Started::Now);
    assert!(busy.is_closed() || busy.query_one("select 1", &[]).await.is_err());
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Running);
}

/// A start that found it on its way down writes the settings before it starts it again.
#[tokio::test]
async fn a_server_that_ends_during_a_start_comes_back_with_its_settings() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    spec.ephemeral = true;
    create(&local, &mut spec).await;
    spec.address = Some(local.address(&spec));
    spec.parameters.insert("work_mem".into(), "7MB".into());
    let pid = postmaster(&place.home(&spec)).unwrap();
    // It runs, and answers nothing.
    kill_process(pid, Signal::STOP).unwrap();
    let kill = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tokio::task::spawn_blocking(move || end(pid)).await.unwrap();
    };
    let advance = async || {
        local
            .advance(&spec, Goal::Running, Duration::from_secs(1).into())
            .await
    };
    let (mut looked, ()) = tokio::join!(advance(), kill);
    while let Next::Later(_) = looked.unwrap().next {
        looked = advance().await;
    }
    assert_eq!(text(&spec, "show work_mem").await, "7MB");
}

#[tokio::test]
async fn starting_twice_at_once_starts_one() {
    let place = Place::new();
    let (one, two) = (place.local(), place.local());
    let mut spec = server(&one);
    let (first, second) = tokio::join!(one.initialize(&spec), two.initialize(&spec));
    assert_eq!(first.as_ref().unwrap(), second.as_ref().unwrap());
    spec.system_identifier = first.ok();
    one.configure(&spec).await.unwrap();
    let (first, second) = tokio::join!(one.start(&spec), two.start(&spec));
    let mut both = [first.unwrap(), second.unwrap()];
    both.sort_by_key(|started| *started == Started::Before);
    assert_eq!(both, [Started::Now, Started::Before]);
}

#[tokio::test]
async fn an_abandoned_initialization_is_waited_for_and_swept() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    let unfinished = place.path().join(format!("local/servers/{}.1", spec.uid));
    {
        let making = local.initialize(&spec);
        tokio::pin!(making);
        // Dropped as soon as initdb has begun.
        loop {
            tokio::select! {
                done = &mut making => panic!("too fast to be abandoned: {done:?}"),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
            if unfinished.join("data/global").exists() {
                break;
            }
        }
    }
    spec.token = 2;
    local.initialize(&spec).await.unwrap();
    assert!(!unfinished.exists());
    let left = fs::read_dir(place.path().join("local/servers"))
        .unwrap()
        .count();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn ephemeral_servers_are_copies_with_passwords_of_their_own() {
    let place = Place::new();
    let local = place.local();
    let (mut one, mut two) = (server(&local), server(&local));
    for spec in [&mut one, &mut two] {
        spec.ephemeral = true;
        create(&local, spec).await;
    }
    assert_eq!(one.system_identifier, two.system_identifier);
    for spec in [&one, &two] {
        let home = place.home(spec);
        assert_eq!(
            text(spec, "show data_directory").await,
            home.join("data").to_str().unwrap()
        );
        assert_eq!(text(spec, "show fsync").await, "off");
    }
    let query = "select rolpassword from pg_authid where rolname = 'howdah_admin'";
    assert_ne!(text(&one, query).await, text(&two, query).await);
    // The record of one does not fit the other.
    let mixed = ServerSpec {
        placement: two.placement,
        ..one.clone()
    };
    let error = local.inspect(&mixed).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ServerUnavailable);
}

#[tokio::test]
async fn engines_are_found_with_what_they_can() {
    let place = Place::new();
    let engines = place.local().engines().await.unwrap();
    let engine = engines.iter().find(|engine| engine.version == installed());
    let engine = engine.unwrap();
    assert!(engine.usable() && engine.tls && engine.icu);
    assert!(engine.extensions.iter().any(|name| name == "plpgsql"));
    assert_eq!(engine.missing_tools(), [""; 0]);
    assert!(engines.is_sorted_by_key(|engine| std::cmp::Reverse(engine.version)));
}

#[tokio::test]
async fn nobody_else_can_look_into_the_directories() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    create(&local, &mut spec).await;
    let mode = |path: &str| {
        let facts = fs::metadata(place.path().join(path)).unwrap();
        facts.mode() & 0o777
    };
    for path in ["local/servers", "local/trash", "local/locks", "run"] {
        assert_eq!(mode(path), 0o700, "{path}");
    }
    let root = rustix::process::geteuid().is_root();
    assert_eq!(mode("local"), if root { 0o711 } else { 0o700 });
    let owner = |path| fs::metadata(place.home(&spec).join(path)).unwrap().uid();
    assert_eq!(owner("data/howdah.conf"), owner("data/PG_VERSION"));
    assert_eq!(owner("data"), owner("data/PG_VERSION"));
    assert_ne!(owner("data"), 0);
}

/// What a server answers to a login from another address than the usual loopback
/// ones: the type of its message, and its text.
async fn knock(port: u16, user: &str, ca: Option<&str>) -> (u8, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.3:0".parse().unwrap()).unwrap();
    let stream = socket.connect(([127, 0, 0, 2], port).into()).await;
    let mut stream = stream.unwrap();
    let mut startup = bytes::BytesMut::new();
    let parameters = [("user", user), ("database", "postgres")];
    frontend::startup_message(parameters, &mut startup).unwrap();
    let Some(ca) = ca else {
        return login(&mut stream, &startup).await;
    };
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'S');
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from_pem_slice(ca.as_bytes());
    roots.add(ca.unwrap()).unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = "localhost".try_into().unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    login(&mut stream, &startup).await
}

async fn login(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), startup: &[u8]) -> (u8, String) {
    stream.write_all(startup).await.unwrap();
    let kind = stream.read_u8().await.unwrap();
    let length = stream.read_u32().await.unwrap();
    let mut text = vec![0; length as usize - 4];
    stream.read_exact(&mut text).await.unwrap();
    (kind, String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn others_are_let_in_over_tls_and_no_superuser_is() {
    let place = Place::new();
    let files = place.path().join("tls");
    fs::create_dir(&files).unwrap();
    let ca = certificates(&files);
    let with = |tls: Option<TlsFiles>| {
        let settings = Settings {
            listen_addresses: ["127.0.0.1", "127.0.0.2"]
                .map(|at| at.parse().unwrap())
                .into(),
            tls,
            ..place.settings()
        };
        Local::new(settings).unwrap()
    };
    let local = with(Some(TlsFiles {
        certificate: files.join("server.pem"),
        key: files.join("server.key"),
    }));
    let mut spec = server(&local);
    spec.ephemeral = true;
    create(&local, &mut spec).await;
    assert!(local.address(&spec).tls);
    assert_eq!(text(&spec, "show ssl").await, "on");
    let (kind, text) = knock(port(&spec), "shop_user", Some(&ca)).await;
    assert_eq!(
        (kind, text.contains("SCRAM-SHA-256")),
        (b'R', true),
        "{text}"
    );
    for (user, ca) in [("shop_user", None), ("howdah_admin", Some(&*ca))] {
        let (kind, text) = knock(port(&spec), user, ca).await;
        assert_eq!((kind, text.contains("C28000")), (b'E', true), "{text}");
    }

    // Without TLS, which the settings of `serve` allow with `insecure` alone.
    local.stop(&spec).await.unwrap();
    let local = with(None);
    local.configure(&spec).await.unwrap();
    local.start(&spec).await.unwrap();
    assert!(!local.address(&spec).tls);
    let (kind, _) = knock(port(&spec), "shop_user", None).await;
    assert_eq!(kind, b'R');
    let (kind, _) = knock(port(&spec), "howdah_admin", None).await;
    assert_eq!(kind, b'E');
}

#[tokio::test]
async fn a_certificate_that_is_not_there_is_named() {
    let place = Place::new();
    let missing = place.path().join("nothing.pem");
    let settings = Settings {
        tls: Some(TlsFiles {
            certificate: missing.clone(),
            key: missing.clone(),
        }),
        ..place.settings()
    };
    let local = Local::new(settings).unwrap();
    let mut spec = server(&local);
    spec.ephemeral = true;
    spec.system_identifier = Some(local.initialize(&spec).await.unwrap());
    let error = local.configure(&spec).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ConfigInvalid);
    assert!(error.message().contains("nothing.pem"), "{error}");
}
