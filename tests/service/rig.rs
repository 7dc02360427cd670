//! What the scenarios share: a look behind the API, and other people's programs.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use howdah::{
    pb::{
        google::longrunning::Operation,
        v1::{ChangeBatch, Connection, SubscribeRequest, change::Event},
    },
    pg::{self, Host, Login, Target, Tls},
    store::sealing::Keyring,
};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use tokio_postgres::types::ToSql;
use tonic::{Code, Response, Status, Streaming};
use uuid::Uuid;

use crate::support::{
    howdah::{Howdah, LIMIT, Options, SECRET_KEY, instance_name, reason},
    postgres::{installation, server},
};

/// Everything that mutations change, as one value to compare.
const CONTENT: &str = "select concat_ws(' ',
    (select md5(string_agg(t::text, ',' order by t::text)) from instances t),
    (select md5(string_agg(t::text, ',' order by t::text)) from servers t),
    (select md5(string_agg(t::text, ',' order by t::text)) from databases t),
    (select md5(string_agg(t::text, ',' order by t::text)) from roles t),
    (select md5(string_agg(t::text, ',' order by t::text)) from change_streams t),
    (select md5(string_agg(t::text, ',' order by t::text)) from operations t),
    (select md5(string_agg(t::text, ',' order by t::text)) from requests t))";

/// A program with metadata of its own on the shared server.
pub(super) async fn serve() -> Howdah {
    Howdah::serve(Options::external().await).await
}

/// The metadata behind a program.
pub(super) struct Metadata(pub(super) pg::Client);

impl Metadata {
    /// Those of a program on the shared server.
    pub(super) async fn of(howdah: &Howdah) -> Self {
        let url = howdah.options.database_url.as_deref().unwrap();
        let (_, name) = url.rsplit_once('/').unwrap();
        Self(server(15).client(name).await)
    }

    /// What tells whether anything was changed.
    pub(super) async fn content(&self) -> String {
        self.0.query_one(CONTENT, &[]).await.unwrap().get(0)
    }

    pub(super) async fn count(&self, query: &str) -> i64 {
        let sql = format!("select count(*) from {query}");
        self.0.query_one(&sql, &[]).await.unwrap().get(0)
    }

    pub(super) async fn execute(&self, sql: &str) {
        self.0.batch_execute(sql).await.unwrap();
    }

    /// Records an operation on an instance that no worker knows: it stays under way.
    pub(super) async fn occupy(&self, instance: &str) {
        let sql = "insert into operations (id, project, kind, plan_version, verb, target,
                target_uid, principal, parameters, state, cancellable)
            select gen_random_uuid(), project, 'test.occupy', 1, 'occupy', id, uid, 'test', '{}',
                'PENDING', false from instances where id = $1";
        assert_eq!(self.0.execute(sql, &[&instance]).await.unwrap(), 1);
    }

    pub(super) async fn release(&self) {
        self.execute("delete from operations where kind = 'test.occupy'")
            .await;
    }

    /// Records another server of an instance, as an upgrade does. It is to run, on the host
    /// of the first one, if that has any, and on the port after.
    pub(super) async fn add_server(&self, instance: &str, role: &str, uid: Uuid) {
        let password = SecretString::from(self.admin_password(instance).await);
        let sealed = keyring().seal(&password, &format!("server {uid} admin"));
        let sql = "insert into servers (uid, instance_uid, number, role, provider, version, host,
                port, started, admin_password)
            select $2::text::uuid, s.instance_uid, s.number + 1, $3, s.provider, s.version,
                s.host, s.port + 1, true, $4
            from servers s join instances i on i.uid = s.instance_uid where i.id = $1";
        let (uid, sealed) = (uid.to_string(), sealed.unwrap());
        let parameters: [&(dyn ToSql + Sync); 4] = [&instance, &uid, &role, &sealed];
        assert_eq!(self.0.execute(sql, &parameters).await.unwrap(), 1);
    }

    /// The password of `howdah_admin` on an instance's server.
    pub(super) async fn admin_password(&self, instance: &str) -> String {
        let sql = "select s.uid::text, s.admin_password from servers s
            join instances i on i.uid = s.instance_uid where i.id = $1";
        let row = self.0.query_one(sql, &[&instance]).await.unwrap();
        let uid: Uuid = row.get::<_, String>(0).parse().unwrap();
        let opened = keyring().open(row.get(1), &format!("server {uid} admin"));
        opened.unwrap().expose_secret().to_owned()
    }
}

/// The key that programs with metadata on the shared server have.
pub(super) fn secret_key() -> Vec<u8> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(SECRET_KEY).unwrap()
}

fn keyring() -> Keyring {
    Keyring::new(&[SecretSlice::from(secret_key())]).unwrap()
}

/// A superuser's connection to an instance's server.
pub(super) async fn superuser(howdah: &Howdah, instance: &str, database: &str) -> pg::Client {
    let password = Metadata::of(howdah).await.admin_password(instance).await;
    let request = howdah::pb::v1::GetInstanceRequest {
        name: instance_name(instance),
    };
    let found = howdah.instances().await.get_instance(request).await;
    let endpoint = found.unwrap().into_inner().endpoint.unwrap();
    let target = Target {
        host: Host::Tcp(endpoint.host),
        port: endpoint.port.try_into().unwrap(),
        tls: Tls::Disable,
    };
    let login = Login {
        user: "howdah_admin".into(),
        password: Some(SecretString::from(password)),
        database: database.into(),
    };
    pg::client::connect(&target, &login, LIMIT).await.unwrap()
}

/// Checks that a call was refused with that code and that reason.
#[track_caller]
pub(super) fn refused<T>(answer: Result<Response<T>, Status>, code: Code, why: &str) -> Status {
    let status = answer.err().expect("a refusal");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (code, why),
        "{status:?}"
    );
    status
}

/// The code and the reason that an operation ended with.
#[track_caller]
pub(super) fn failure(operation: &Operation) -> (Code, String) {
    use howdah::pb::google::{longrunning::operation::Result, rpc};
    use prost::Message as _;
    match &operation.result {
        Some(Result::Error(status)) if operation.done => {
            let details = rpc::Status::encode_to_vec(status);
            let code = Code::from(status.code);
            let status = Status::with_details(code, "", details.into());
            (code, reason(&status))
        }
        other => panic!("{} did not fail: {other:?}", operation.name),
    }
}

/// A program that `tools/install.sh` installs.
pub(super) fn tool(name: &str, path: &str) -> PathBuf {
    let tools = std::env::var_os("HOWDAH_TEST_TOOLS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"),
        PathBuf::from,
    );
    let program = tools.join(path);
    assert!(
        program.exists(),
        "{} is missing; install it with: tools/install.sh {name}",
        program.display()
    );
    program
}

/// `psql` with these arguments.
pub(super) fn psql(arguments: &[&str]) -> Output {
    let installed = installation(15).map(|bin| bin.join("psql"));
    let program = installed.filter(|psql| psql.exists());
    Command::new(program.unwrap_or_else(|| "psql".into()))
        .args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1"])
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs SQL through `psql` with the URL as users get it.
#[track_caller]
pub(crate) fn run_sql(connection: &Connection, sql: &str) -> String {
    let url = &connection.environment["DATABASE_URL"];
    let output = psql(&[url, "-c", sql]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A subscription to `public.items` whose slot is made.
pub(super) async fn subscribe(howdah: &Howdah, connection: &Connection) -> Streaming<ChangeBatch> {
    let request = SubscribeRequest {
        instance: instance_name("orders"),
        database: connection.database.clone(),
        tables: vec!["public.items".into()],
        ..SubscribeRequest::default()
    };
    let stream = howdah.streams().await.subscribe(request).await;
    let mut stream = stream.unwrap().into_inner();
    while !next_batch(&mut stream).await.waiting_for.is_empty() {}
    stream
}

/// The batch that comes next.
pub(super) async fn next_batch(stream: &mut Streaming<ChangeBatch>) -> ChangeBatch {
    let next = tokio::time::timeout(LIMIT, stream.message()).await;
    next.expect("a batch within the limit").unwrap().unwrap()
}

/// The next row that comes, as text.
pub(super) async fn next_row(stream: &mut Streaming<ChangeBatch>) -> Vec<String> {
    use howdah::pb::v1::value::Value;
    loop {
        for change in next_batch(stream).await.changes {
            if let Some(Event::Row(row)) = change.event {
                let values = row.after.unwrap().values.into_iter();
                let text = |value| match value {
                    Some(Value::Text(text)) => text,
                    other => panic!("no text: {other:?}"),
                };
                return values.map(|value| text(value.value)).collect();
            }
        }
    }
}

/// Half a minute and more, for other people's programs.
pub(super) const PATIENCE: Duration = Duration::from_secs(100);

/// How often a program has run the store's query of that name.
pub(super) async fn queries(howdah: &Howdah, name: &str) -> u64 {
    let url = format!("http://{}/metrics", howdah.admin_endpoint());
    let metrics = get(&url).await.unwrap();
    let count = metrics.lines().filter(|line| {
        line.starts_with("db_client_operation_duration")
            && line.contains("_count{")
            && line.contains(&format!("\"{name}\""))
    });
    let counts = count.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    counts.sum()
}

/// What a scrape reads.
pub(super) async fn metrics(howdah: &Howdah) -> String {
    let url = format!("http://{}/metrics", howdah.admin_endpoint());
    get(&url).await.unwrap()
}

/// The sum of a counter's series.
pub(crate) async fn counter(howdah: &Howdah, name: &str) -> u64 {
    labelled(howdah, name, "").await.unwrap_or_default()
}

/// The sum of a metric's series with that label; none without a series.
pub(super) async fn labelled(howdah: &Howdah, name: &str, label: &str) -> Option<u64> {
    let url = format!("http://{}/metrics", howdah.admin_endpoint());
    let metrics = get(&url).await.unwrap();
    let series = metrics
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(label));
    let values = series.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    values.reduce(|sum, value| sum + value)
}

/// The body of a page.
async fn get(url: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (host, path) = url.strip_prefix("http://")?.split_once('/')?;
    let mut stream = tokio::net::TcpStream::connect(host).await.ok()?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}
