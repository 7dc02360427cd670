//! No password is written anywhere: a run with everything that has to do with
//! passwords, then a search through all that it has left.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use howdah::pb::v1::{Connection, Database};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use prost::Message as _;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::rig::{Metadata, next_row, secret_key, subscribe, superuser};
use crate::support::{
    howdah::{Howdah, Options, SECRET_KEY, create_database, eventually, instance_name},
    postgres::server,
};

/// Bytes that were written in the run, and where.
type Written = Vec<(String, Vec<u8>)>;

/// Keeps the spans that it is sent, as bytes.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<u8>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let bytes = request.into_inner().encode_to_vec();
        self.0.lock().unwrap().extend(bytes);
        Ok(Response::new(Default::default()))
    }
}

/// Every command line that was seen while it lives.
struct CommandLines {
    seen: Arc<Mutex<BTreeSet<Vec<u8>>>>,
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl CommandLines {
    fn watch() -> Self {
        let seen = Arc::<Mutex<BTreeSet<Vec<u8>>>>::default();
        let ended = Arc::new(AtomicBool::new(false));
        let (into, until) = (Arc::clone(&seen), Arc::clone(&ended));
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                for entry in fs::read_dir("/proc").unwrap().flatten() {
                    if let Ok(line) = fs::read(entry.path().join("cmdline")) {
                        into.lock().unwrap().insert(line);
                    }
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self {
            seen,
            ended,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> Written {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let seen = self.seen.lock().unwrap();
        let lines = seen.iter().map(|line| ("ps".to_owned(), line.clone()));
        lines.collect()
    }
}

/// A metadata database whose owner has a password that nobody else has.
async fn options(password: &str) -> Options {
    let options = Options::external().await;
    let url = options.database_url.unwrap();
    let (_, database) = url.rsplit_once('/').unwrap();
    let role = format!("{database}_secret");
    let shared = server(15).client("postgres").await;
    shared
        .batch_execute(&format!(
            "create role {role} superuser login password '{password}'"
        ))
        .await
        .unwrap();
    let port = server(15).port;
    Options {
        database_url: Some(format!(
            "postgres://{role}:{password}@127.0.0.1:{port}/{database}"
        )),
        environment: options.environment,
    }
}

/// A start with a setting that is wrong, and has a secret in it.
fn refused_start(howdah: &Howdah, secret: &str) -> Written {
    let place = howdah.directory().join("elsewhere");
    let variables = [
        (
            "HOWDAH_DATABASE_URL",
            format!("postgres://me:{secret}@h:x/d"),
        ),
        ("HOWDAH_DATABASE_URL", format!("mysql://me:{secret}@h/d")),
        ("HOWDAH_DATABASE_URL", format!("me:{secret}")),
        ("HOWDAH_SECRET_KEY", secret.to_owned()),
    ];
    let mut written = Written::new();
    for (name, value) in variables {
        for subcommand in [
            &["serve"][..],
            &["migrate"],
            &["doctor"],
            &["config", "check"],
        ] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_howdah"));
            let output = command
                .args(subcommand)
                .env("HOWDAH_DATABASE_URL", "postgres://127.0.0.1:1/d")
                .env("HOWDAH_SECRET_KEY", SECRET_KEY)
                .env("HOWDAH_DATA_DIR", &place)
                .env(name, &value)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert!(
                subcommand[0] == "config" || !output.status.success(),
                "{subcommand:?} {output:?}"
            );
            let text = [output.stdout, output.stderr].concat();
            written.push((format!("{name} {subcommand:?}"), text));
        }
    }
    written
}

/// `psql` that reads the password from its environment, as one should.
fn log_in(connection: &Connection, password: &str) -> bool {
    let mut command = Command::new("psql");
    command
        .args(["-X", "-c", "select 1"])
        .env("PGHOST", &connection.host)
        .env("PGPORT", connection.port.to_string())
        .env("PGDATABASE", &connection.database)
        .env("PGUSER", &connection.user)
        .env("PGPASSWORD", password)
        .stdin(Stdio::null());
    command.output().unwrap().status.success()
}

/// Everything in the metadata database, as text; bytes are hexadecimal in it.
async fn tables(metadata: &Metadata) -> Written {
    let names = "select tablename::text from pg_tables where schemaname = 'public'";
    let mut written = Written::new();
    for row in metadata.0.query(names, &[]).await.unwrap() {
        let name: String = row.get(0);
        let sql = format!("select t::text from public.\"{name}\" t");
        for row in metadata.0.query(&sql, &[]).await.unwrap() {
            written.push((name.clone(), row.get::<_, String>(0).into_bytes()));
        }
    }
    assert!(written.iter().any(|(name, _)| name == "roles"));
    written
}

/// The scrape of the admin listener.
async fn scrape(howdah: &Howdah) -> Vec<u8> {
    let mut stream = TcpStream::connect(howdah.admin_endpoint()).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    assert!(String::from_utf8_lossy(&text).contains("rpc_server"));
    text
}

/// The forms in which a secret may be written.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let base64 = STANDARD.encode(secret);
    vec![
        secret.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        base64.trim_end_matches('=').as_bytes().to_vec(),
    ]
}

/// Everything that was written, as files to search: those of the program's directory,
/// and the rest in a directory of its own.
struct Library {
    rest: TempDir,
    places: Vec<PathBuf>,
}

impl Library {
    fn new(howdah: &Howdah, written: Written) -> Self {
        let rest = tempfile::tempdir().unwrap();
        let texts = rest.path().join("texts");
        fs::create_dir(&texts).unwrap();
        for (number, (place, bytes)) in written.into_iter().enumerate() {
            let name = place.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            fs::write(texts.join(format!("{name}.{number}")), bytes).unwrap();
        }
        Self {
            rest,
            places: vec![texts, howdah.directory().to_owned()],
        }
    }

    /// The files that hold one of the patterns, with what they hold.
    fn search(&self, patterns: &[Vec<u8>]) -> String {
        // A file, because command lines are searched too.
        let file = self.rest.path().join("patterns");
        fs::write(&file, patterns.join(&b'\n')).unwrap();
        let output = Command::new("grep")
            .args(["-r", "-a", "-o", "-F", "-f"])
            .arg(file)
            .args(&self.places)
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        assert!(
            output.status.code().is_some_and(|code| code < 2),
            "{output:?}"
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// What users do with passwords, things that fail included. Answers the errors.
async fn use_it(howdah: &Howdah) -> (Vec<Connection>, Written) {
    let mut written = Written::new();
    let mut connections = Vec::new();
    for instance in ["orders", "second"] {
        howdah.instance(instance).await;
        connections.push(howdah.database(instance, "shop").await);
        connections.push(howdah.database(instance, "other").await);
    }
    for connection in &connections {
        assert!(log_in(connection, &connection.password));
        assert!(!log_in(connection, "not-the-password-of-anybody"));
        written.push((
            "Debug of a connection".into(),
            format!("{connection:?}").into_bytes(),
        ));
    }
    let mut request = create_database("orders", "failing");
    request.database = Some(Database {
        encoding: "EBCDIC".into(),
        ..Database::default()
    });
    let answer = howdah.databases().await.create_database(request).await;
    let operation = howdah.wait(answer.unwrap().get_ref()).await;
    written.push(("an operation".into(), format!("{operation:?}").into_bytes()));
    let client = superuser(howdah, "orders", "postgres").await;
    let taken = "create role taken_user; create table \"say it\"()";
    client.batch_execute(taken).await.unwrap();
    let request = create_database("orders", "taken");
    let answer = howdah.databases().await.create_database(request).await;
    let operation = howdah.wait(answer.unwrap().get_ref()).await;
    written.push(("an operation".into(), format!("{operation:?}").into_bytes()));
    let answer = howdah
        .databases()
        .await
        .create_database(create_database("orders", "shop"))
        .await;
    written.push(("a status".into(), format!("{answer:?}").into_bytes()));
    (connections, written)
}

#[tokio::test]
async fn no_password_is_written_anywhere() {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    let service = TraceServiceServer::new(collector.clone());
    let serving = Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tasks.spawn(async move { serving.await.unwrap() });
    let metadata_password = format!("meta-{}", uuid::Uuid::new_v4().simple());
    let options = options(&metadata_password)
        .await
        .with("HOWDAH_OTLP_ENDPOINT", endpoint)
        .with("HOWDAH_LOG_FILTER", "debug");
    let lines = CommandLines::watch();
    let mut howdah = Howdah::serve(options).await;

    let (connections, mut written) = use_it(&howdah).await;
    let wrong = format!("wrong-{}", uuid::Uuid::new_v4().simple());
    written.extend(refused_start(&howdah, &wrong));
    written.push(("metrics".into(), scrape(&howdah).await));
    eventually("spans came", async || {
        let spans = collector.0.lock().unwrap();
        spans.windows(14).any(|part| part == b"CreateDatabase")
    })
    .await;
    howdah.kill().await;
    howdah.start("").await;
    let orders = &connections[0];
    let client = superuser(&howdah, "orders", &orders.database).await;
    let table = format!(
        "create table public.items (id int primary key); alter table items owner to \"{}\"",
        orders.user
    );
    client.batch_execute(&table).await.unwrap();
    let mut changes = subscribe(&howdah, orders).await;
    client
        .batch_execute("insert into items values (1)")
        .await
        .unwrap();
    assert_eq!(next_row(&mut changes).await, ["1"]);
    drop(changes);
    let request = howdah::pb::v1::RestartInstanceRequest {
        name: instance_name("orders"),
        ..Default::default()
    };
    let answer = howdah.instances().await.restart_instance(request).await;
    howdah.wait(answer.unwrap().get_ref()).await;
    written.push(("metrics".into(), scrape(&howdah).await));

    let metadata = Metadata::of(&howdah).await;
    let mut secrets: Vec<(String, Vec<u8>)> = connections
        .iter()
        .map(|connection| {
            let what = format!("password of {}", connection.user);
            (what, connection.password.clone().into_bytes())
        })
        .collect();
    for instance in ["orders", "second"] {
        let password = metadata.admin_password(instance).await;
        secrets.push((format!("howdah_admin of {instance}"), password.into_bytes()));
    }
    secrets.push(("password of the metadata".into(), metadata_password.into()));
    secrets.push(("a wrong setting".into(), wrong.into_bytes()));
    secrets.push(("the secret key".into(), secret_key()));
    secrets.push(("the secret key as text".into(), SECRET_KEY.into()));
    written.extend(tables(&metadata).await);
    assert!(howdah.stop().await.success());
    written.push(("spans".into(), collector.0.lock().unwrap().clone()));
    written.extend(lines.end());
    written.push(("metadata server log".into(), server(15).log().into()));

    let library = Library::new(&howdah, written);
    for (place, what) in [
        ("howdah.log", "serving"),
        ("ps.", "serve"),
        ("spans.", "CreateDatabase"),
        ("metrics.", "CreateDatabase"),
        ("/log", "password authentication failed"),
        ("an-operation.", "EBCDIC"),
        ("roles.", "shop_user"),
        ("metadata-server-log.", "database system is ready"),
    ] {
        let found = library.search(&[what.as_bytes().to_vec()]);
        assert!(
            found.lines().any(|line| line.contains(place)),
            "no {what:?} in {place}: {found}"
        );
    }
    for (what, secret) in secrets {
        assert!(secret.len() >= 12, "{what} is too short to search for");
        let found = library.search(&forms(&secret));
        assert!(found.is_empty(), "{what} was written:\n{found}");
    }
}
