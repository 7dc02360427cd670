//! The real program, in a data directory of its own.
//!
//! A watchdog shell waits on a pipe from this process. When the pipe closes, however
//! that comes, it ends the program and every PostgreSQL server below the directory,
//! and removes the directory.

use std::{
    fs::{self, OpenOptions},
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant, SystemTime},
};

use howdah::pb::{
    google::longrunning::{
        GetOperationRequest, Operation, WaitOperationRequest, operations_client::OperationsClient,
    },
    v1::{
        Connection, CreateDatabaseRequest, CreateInstanceRequest, Database, GetConnectionRequest,
        Instance, change_stream_service_client::ChangeStreamServiceClient,
        database_service_client::DatabaseServiceClient,
        instance_service_client::InstanceServiceClient,
    },
};
use tempfile::TempDir;
use tonic::transport::Channel;

use super::{ports, scratch, templates};

/// How long anything may take that is no operation.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How long an operation may take.
pub const OPERATION_LIMIT: Duration = Duration::from_secs(90);

/// How the program is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// URL of the metadata database; none: embedded.
    pub database_url: Option<String>,
    /// More settings, as environment variables.
    pub environment: Vec<(String, String)>,
}

impl Options {
    /// With metadata in a fresh database of the run's shared server.
    pub async fn external() -> Self {
        use super::postgres::{PASSWORD, SUPERUSER, server};
        let server = server(15);
        let database = server.fresh_database().await;
        let url = format!(
            "postgres://{SUPERUSER}:{PASSWORD}@127.0.0.1:{}/{database}",
            server.port
        );
        Self {
            database_url: Some(url),
            environment: Vec::new(),
        }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }
}

/// A program that serves, or did.
pub struct Howdah {
    pub options: Options,
    directory: PathBuf,
    ports: String,
    child: Option<Child>,
    /// When the file `endpoint` that was there at the last start was written.
    stale: Option<SystemTime>,
    watchdog: Child,
    program: PathBuf,
    dress: Box<dyn Fn(&mut Command) + Send + Sync>,
    host: Option<String>,
    // Kept until the watchdog has removed it.
    _directory: TempDir,
}

impl Howdah {
    /// A data directory, and nothing that runs yet.
    pub fn new(options: Options) -> Self {
        let directory = scratch::directory("howdah-test-");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let path = directory.path().to_owned();
        Self {
            options,
            child: None,
            stale: None,
            ports: ports::range(),
            watchdog: watchdog(&path),
            directory: path,
            program: env!("CARGO_BIN_EXE_howdah").into(),
            dress: Box::new(|_| ()),
            host: None,
            _directory: directory,
        }
    }

    /// Serves, with nothing armed.
    pub async fn serve(options: Options) -> Self {
        let mut howdah = Self::new(options);
        howdah.start("").await;
        howdah
    }

    /// Runs this copy of the program, dressed so.
    pub fn program(&mut self, path: &Path, dress: impl Fn(&mut Command) + Send + Sync + 'static) {
        self.program = path.to_owned();
        self.dress = Box::new(dress);
    }

    /// Clients reach it by this host, where it listens on all.
    pub fn endpoint_host(&mut self, host: &str) {
        self.host = Some(host.to_owned());
    }

    /// Starts it with these failpoints, and waits until it serves.
    pub async fn start(&mut self, failpoints: &str) {
        self.spawn(failpoints);
        self.ready().await;
    }

    /// Starts it, and does not wait.
    pub fn spawn(&mut self, failpoints: &str) {
        assert!(self.child.is_none(), "it runs");
        self.stale = self.endpoint_written();
        let child = self.command("serve", failpoints).spawn().unwrap();
        fs::write(self.pid_path(), child.id().to_string()).unwrap();
        self.child = Some(child);
    }

    /// Runs a subcommand with this fixture's settings to its end. It is killed when that
    /// takes too long.
    pub fn run(&self, words: &[&str], failpoints: &str) -> Output {
        let (subcommand, arguments) = words.split_first().unwrap();
        let mut command = self.command(subcommand, failpoints);
        command.args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let (pid, (ended, waits)) = (child.id(), std::sync::mpsc::channel::<()>());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if waits.recv_timeout(OPERATION_LIMIT).is_err() {
                    signal(pid, "KILL");
                }
            });
            let output = child.wait_with_output().unwrap();
            // Nobody receives it where the process was killed.
            let _ = ended.send(());
            output
        })
    }

    /// The program with a subcommand and this fixture's settings.
    pub fn command(&self, subcommand: &str, failpoints: &str) -> Command {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut command = Command::new(&self.program);
        command
            .arg(subcommand)
            .env("HOWDAH_LISTEN", "127.0.0.1:0")
            .env("HOWDAH_ADMIN_LISTEN", "127.0.0.1:0")
            .env("HOWDAH_DATA_DIR", self.data_dir())
            .env("HOWDAH_LOCAL_RUN_DIRECTORY", self.directory.join("run"))
            .env("HOWDAH_LOCAL_PORTS", &self.ports)
            .env("HOWDAH_LOG_FORMAT", "json")
            .env("HOWDAH_LOG_FILTER", "info,howdah=debug")
            .env("FAILPOINTS", with_a_steady_clock(failpoints))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if let Some(url) = &self.options.database_url {
            command
                .env("HOWDAH_DATABASE_URL", url)
                .env("HOWDAH_SECRET_KEY", SECRET_KEY);
        }
        command.envs(self.options.environment.iter().cloned());
        (self.dress)(&mut command);
        command
    }

    /// Waits until it serves.
    pub async fn ready(&mut self) {
        let end = Instant::now() + LIMIT;
        while self.endpoint_file().is_none() {
            if let Some(status) = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().unwrap())
            {
                panic!("howdah ended with {status}:\n{}", self.log());
            }
            assert!(
                Instant::now() < end,
                "howdah does not serve:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn endpoint_written(&self) -> Option<SystemTime> {
        let file = fs::metadata(self.data_dir().join("endpoint")).ok()?;
        Some(file.modified().unwrap())
    }

    /// What this process wrote, and not one that was killed before.
    fn endpoint_file(&self) -> Option<String> {
        if self.endpoint_written() == self.stale {
            return None;
        }
        match fs::read_to_string(self.data_dir().join("endpoint")) {
            Ok(text) if text.ends_with('\n') => Some(text.trim().to_owned()),
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// `host:port` of the API.
    pub fn endpoint(&self) -> String {
        let file = self.endpoint_file().expect("it serves");
        let endpoint = file.strip_prefix("https://").unwrap_or(&file).to_owned();
        match (&self.host, endpoint.rsplit_once(':')) {
            (Some(host), Some((_, port))) => format!("{host}:{port}"),
            _ => endpoint,
        }
    }

    /// `host:port` of the admin listener.
    pub fn admin_endpoint(&self) -> String {
        fs::read_to_string(self.data_dir().join("admin-endpoint"))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// Kills it, as a crash would.
    pub async fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().unwrap();
        }
        self.ended().await;
    }

    /// Tells it to end (SIGTERM), and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        if let Some(child) = &self.child {
            signal(child.id(), "TERM");
        }
        self.ended().await
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + LIMIT;
        let child = self.child.as_mut().expect("it runs");
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                self.child = None;
                let _ = fs::remove_file(self.pid_path());
                return status;
            }
            assert!(Instant::now() < end, "howdah does not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// For the watchdog.
    fn pid_path(&self) -> PathBuf {
        self.directory.join("howdah.pid")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("howdah.log")
    }

    /// Everything that it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The directory that holds all of it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Names in a directory below `local.root`.
    pub fn local(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.data_dir().join("local").join(directory)) else {
            return Vec::new();
        };
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        entries.map(|entry| name(entry.unwrap())).collect()
    }

    /// Command lines of all processes that name this fixture's directory, the
    /// fixture's own helper among them.
    pub fn processes(&self) -> Vec<String> {
        let found = processes(&self.directory);
        found.into_iter().map(|(_, line)| line).collect()
    }

    /// Process ids of the PostgreSQL servers of users below the data directory.
    pub fn servers(&self) -> Vec<u32> {
        self.postmasters("local/servers")
    }

    fn postmasters(&self, below: &str) -> Vec<u32> {
        let found = processes(&self.data_dir().join(below)).into_iter();
        let servers = found.filter(|(_, line)| line.contains("/postgres "));
        servers.map(|(pid, _)| pid).collect()
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.endpoint())).unwrap();
        endpoint.connect().await.unwrap()
    }

    pub async fn instances(&self) -> InstanceServiceClient<Channel> {
        InstanceServiceClient::new(self.channel().await)
    }

    pub async fn databases(&self) -> DatabaseServiceClient<Channel> {
        DatabaseServiceClient::new(self.channel().await)
    }

    pub async fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel().await)
    }

    pub async fn streams(&self) -> ChangeStreamServiceClient<Channel> {
        ChangeStreamServiceClient::new(self.channel().await)
    }

    /// Waits until an operation is done.
    pub async fn wait(&self, operation: &Operation) -> Operation {
        let end = Instant::now() + OPERATION_LIMIT;
        let mut operation = operation.clone();
        let mut client = self.operations().await;
        while !operation.done {
            assert!(
                Instant::now() < end,
                "{operation:?} is not done:\n{}",
                self.log()
            );
            let timeout = Some(prost_types::Duration {
                seconds: 10,
                nanos: 0,
            });
            let request = WaitOperationRequest {
                name: operation.name.clone(),
                timeout,
            };
            operation = client.wait_operation(request).await.unwrap().into_inner();
        }
        operation
    }

    /// The operation as it is now.
    pub async fn operation(&self, name: &str) -> Operation {
        let request = GetOperationRequest {
            name: name.to_owned(),
        };
        self.operations()
            .await
            .get_operation(request)
            .await
            .unwrap()
            .into_inner()
    }

    /// Creates an instance that is careless of the disk, and waits for it.
    pub async fn instance(&self, id: &str) -> Instance {
        let instance = Instance {
            ephemeral: true,
            ..Instance::default()
        };
        let local = self.data_dir().join("local");
        templates::lend(&local);
        let request = create_instance(id, instance);
        let accepted = self
            .instances()
            .await
            .create_instance(request)
            .await
            .unwrap();
        let operation = self.wait(accepted.get_ref()).await;
        templates::keep(&local);
        succeeded(&operation)
    }

    /// Creates a database in an instance, and waits for it.
    pub async fn database(&self, instance: &str, id: &str) -> Connection {
        let request = create_database(instance, id);
        let accepted = self
            .databases()
            .await
            .create_database(request)
            .await
            .unwrap();
        let _: Database = succeeded(&self.wait(accepted.get_ref()).await);
        self.connection(instance, id).await
    }

    /// How to connect to a database.
    pub async fn connection(&self, instance: &str, id: &str) -> Connection {
        let name = format!("{}/databases/{id}", instance_name(instance));
        let request = GetConnectionRequest { name };
        self.databases()
            .await
            .get_connection(request)
            .await
            .unwrap()
            .into_inner()
    }
}

impl Drop for Howdah {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- log of howdah in {}\n{}",
                self.directory.display(),
                self.log()
            );
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            let _ = fs::remove_file(self.pid_path());
        }
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// Any 32 bytes.
pub const SECRET_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// Removes the directory, and ends what runs in it, when this process has ended.
pub fn watchdog(directory: &Path) -> Child {
    let script = r#"
        cat > /dev/null
        if [ -f "$1/howdah.pid" ]; then kill -KILL "$(cat "$1/howdah.pid")"; fi
        for file in $(find "$1" -name postmaster.pid); do
            kill -QUIT "$(head -n 1 "$file")" 2> /dev/null
        done
        for try in $(seq 100); do
            find "$1" -name postmaster.pid | grep -q . || break
            sleep 0.05
        done
        rm -rf "$1"
    "#;
    Command::new("sh")
        .args(["-c", script, "watchdog"])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Ids and command lines of processes that name the path. A process that was forked
/// just now still looks like its parent, and is not counted.
pub fn processes(path: &Path) -> Vec<(u32, String)> {
    let wanted = path.to_string_lossy().into_owned();
    let line = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ")
    };
    let parent = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        parent.and_then(|pid| pid.trim().parse().ok())
    };
    let pid = |entry: fs::DirEntry| entry.file_name().to_string_lossy().parse::<u32>().ok();
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(pid);
    let found = all.map(|pid| (pid, line(pid)));
    let found = found.filter(|(_, line)| line.contains(&wanted));
    let own = found.filter(|(pid, its)| parent(*pid).is_none_or(|parent| line(parent) != *its));
    own.collect()
}

/// Sends a signal to a process of this test.
pub fn signal(pid: u32, name: &str) {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = match name {
        "CONT" => Signal::CONT,
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "KILL" => Signal::KILL,
        "QUIT" => Signal::QUIT,
        "STOP" => Signal::STOP,
        "TERM" => Signal::TERM,
        other => panic!("no signal of these tests: {other}"),
    };
    let process = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let sent = kill_process(process, signal);
    assert!(sent.is_ok(), "SIG{name} to {pid}: {sent:?}");
}

/// Waits until `condition` holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    // Some wait for hundreds of operations, on a machine that does other things too.
    let end = Instant::now() + OPERATION_LIMIT;
    while !condition().await {
        assert!(
            Instant::now() < end,
            "{what}: not within {OPERATION_LIMIT:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The resource that a successful operation answers.
pub fn succeeded<T: prost::Message + Default + prost::Name>(operation: &Operation) -> T {
    use howdah::pb::google::longrunning::operation::Result;
    match &operation.result {
        Some(Result::Response(any)) if operation.done => {
            assert!(any.type_url.ends_with(&T::full_name()), "{}", any.type_url);
            T::decode(any.value.as_slice()).unwrap()
        }
        other => panic!("{} did not succeed: {other:?}", operation.name),
    }
}

/// The gRPC code and the message that an operation ended with.
pub fn failed(operation: &Operation) -> (i32, String) {
    use howdah::pb::google::longrunning::operation::Result;
    match &operation.result {
        Some(Result::Error(status)) if operation.done => (status.code, status.message.clone()),
        other => panic!("{} did not fail: {other:?}", operation.name),
    }
}

/// The reason in a status.
pub fn reason(status: &tonic::Status) -> String {
    use tonic_types::StatusExt as _;
    let details = status.get_error_details();
    details
        .error_info()
        .map(|info| info.reason.clone())
        .unwrap_or_default()
}

pub const PROJECT: &str = "projects/default";

pub fn instance_name(id: &str) -> String {
    format!("{PROJECT}/instances/{id}")
}

pub fn create_instance(id: &str, instance: Instance) -> CreateInstanceRequest {
    CreateInstanceRequest {
        parent: PROJECT.into(),
        instance_id: id.into(),
        instance: Some(instance),
        ..CreateInstanceRequest::default()
    }
}

pub fn create_database(instance: &str, id: &str) -> CreateDatabaseRequest {
    CreateDatabaseRequest {
        parent: instance_name(instance),
        database_id: id.into(),
        database: Some(Database::default()),
        ..CreateDatabaseRequest::default()
    }
}

/// A process trusts the metadata's clock from its start on, unless the test says otherwise.
fn with_a_steady_clock(failpoints: &str) -> String {
    match failpoints.contains("clock.settling") {
        true => failpoints.to_owned(),
        false => format!("clock.settling=return(0);{failpoints}"),
    }
}
