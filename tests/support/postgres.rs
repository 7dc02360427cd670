//! Real PostgreSQL servers, started once per run and per major version.
//!
//! Each server has a watchdog: a shell that waits on a pipe from this process
//! and, when the pipe closes, however that comes, stops the server and removes
//! its directory. Nothing else has to clean up.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use howdah::pg::{self, Host, Login, Roots, Target, Tls};
use secrecy::SecretString;

use self::tls::certificates;
use super::{ports, scratch};

mod control;
pub mod tls;

/// How long anything against these servers may take.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The superuser and its password. Besides it there are `md5_user` and
/// `clear_user` with the same password, named after how they log in.
pub const SUPERUSER: &str = "postgres";
pub const PASSWORD: &str = "an-Unlikely-password-7f3a";

/// A running server.
pub struct Server {
    pub bin: PathBuf,
    /// Holds `data`, `log`, `ca.pem` and the sockets.
    pub dir: PathBuf,
    pub port: u16,
    ca: String,
    // Its stdin is the pipe that keeps the server alive.
    _watchdog: Child,
}

/// The directory with the binaries of a major version, if it is installed.
pub fn installation(major: u32) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/postgres");
    [
        tools.join(format!("{major}/bin")),
        format!("/usr/lib/postgresql/{major}/bin").into(),
    ]
    .into_iter()
    .find(|bin| bin.join("postgres").exists())
}

/// The run's shared server of a major version. Tests use fresh databases.
pub fn server(major: u32) -> &'static Server {
    static SERVERS: OnceLock<Mutex<HashMap<u32, &'static Server>>> = OnceLock::new();
    let mut servers = SERVERS
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(|e| e.into_inner());
    servers
        .entry(major)
        .or_insert_with(|| Box::leak(Box::new(Server::start(major, &[]))))
}

impl Server {
    /// A server of a test's own, for what would disturb others. It is stopped
    /// and removed when dropped.
    pub fn start(major: u32, settings: &[(&str, &str)]) -> Server {
        let bin = installation(major).unwrap_or_else(|| panic!("PostgreSQL {major} is missing"));
        // Another process may take the port between our look and the start.
        for attempt in 1.. {
            match Server::try_start(&bin, settings) {
                Ok(server) => return server,
                Err(log) if attempt == 3 => panic!("PostgreSQL {major} does not start: {log}"),
                Err(_) => {}
            }
        }
        unreachable!()
    }

    fn try_start(bin: &Path, settings: &[(&str, &str)]) -> Result<Server, String> {
        let server = Server::prepare(bin);
        let run = |tool: &str, args: &[&str]| {
            let out = server.command(tool).args(args).output().unwrap();
            assert!(tool != "initdb" || out.status.success(), "{out:?}");
            out.status.success()
        };
        let data = server.data().display().to_string();
        let password = server.dir.join("password").display().to_string();
        run(
            "initdb",
            &[
                "-D",
                &data,
                "-U",
                SUPERUSER,
                "--pwfile",
                &password,
                "-A",
                "scram-sha-256",
                "-E",
                "UTF8",
                "--locale",
                "C",
                "--no-sync",
            ],
        );
        server.configure(settings);
        let log = server.dir.join("log").display().to_string();
        if !run("pg_ctl", &["start", "-w", "-D", &data, "-l", &log]) {
            return Err(fs::read_to_string(log).unwrap_or_default());
        }
        server.roles();
        Ok(server)
    }

    /// A directory with all but the data, and nothing that runs yet.
    fn prepare(bin: &Path) -> Server {
        let dir = scratch::directory("howdah-pg-").keep();
        let watchdog = watch(bin, &dir);
        let port = ports::one();
        let ca = certificates(&dir);
        fs::write(dir.join("password"), PASSWORD).unwrap();
        own(&dir);
        Server {
            bin: bin.into(),
            dir,
            port,
            ca,
            _watchdog: watchdog,
        }
    }

    fn configure(&self, settings: &[(&str, &str)]) {
        let dir = self.dir.display();
        let mut conf = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{dir}'\n\
             wal_level = logical\nmax_wal_senders = 60\nmax_replication_slots = 60\n\
             max_connections = 200\nmax_prepared_transactions = 50\nfsync = off\n\
             shared_buffers = 32MB\nssl = on\nssl_cert_file = '{dir}/server.pem'\n\
             ssl_key_file = '{dir}/server.key'\n",
            self.port
        );
        for (name, value) in settings {
            conf.push_str(&format!("{name} = '{value}'\n"));
        }
        let file = self.data().join("postgresql.conf");
        fs::write(&file, fs::read_to_string(&file).unwrap() + &conf).unwrap();
        let hba = "local replication all scram-sha-256\nhost replication all all scram-sha-256\n\
                   local all clear_user password\nhost all clear_user all password\n\
                   local all md5_user md5\nhost all md5_user all md5\n\
                   local all all scram-sha-256\nhost all all all scram-sha-256\n";
        fs::write(self.data().join("pg_hba.conf"), hba).unwrap();
    }

    fn roles(&self) {
        let sql = format!(
            "create role clear_user superuser login password '{PASSWORD}';
             set password_encryption = md5;
             create role md5_user superuser login password '{PASSWORD}'"
        );
        self.block_on(async {
            let client = self.client("postgres").await;
            client.batch_execute(&sql).await.unwrap();
        });
    }

    /// `pg_ctl`, `psql` and so on, as the user who owns the server.
    pub fn command(&self, tool: &str) -> Command {
        let mut command = as_owner(Command::new(self.bin.join(tool)), &self.dir);
        command.env("PGPASSWORD", PASSWORD).env("LC_ALL", "C");
        command
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        fs::File::open(self.dir.join("log"))
            .unwrap()
            .read_to_end(&mut text)
            .unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Over the Unix socket.
    pub fn target(&self) -> Target {
        Target {
            host: Host::Unix(self.dir.clone()),
            port: self.port,
            tls: Tls::Disable,
        }
    }

    /// Over loopback TCP.
    pub fn tcp(&self, tls: Tls) -> Target {
        self.tcp_as("localhost", tls)
    }

    /// Over loopback TCP, under a name that the certificate need not have
    /// (it has `localhost` alone).
    pub fn tcp_as(&self, host: &str, tls: Tls) -> Target {
        Target {
            host: Host::Tcp(host.into()),
            port: self.port,
            tls,
        }
    }

    /// The authority that signed the server's certificate.
    pub fn roots(&self) -> Roots {
        Roots::from_pem(self.ca.as_bytes()).unwrap()
    }

    pub fn login(&self, database: &str) -> Login {
        self.login_as(SUPERUSER, database)
    }

    pub fn login_as(&self, user: &str, database: &str) -> Login {
        let password = Some(SecretString::from(PASSWORD));
        Login {
            user: user.into(),
            password,
            database: database.into(),
        }
    }

    /// A connection for SQL as the superuser.
    pub async fn client(&self, database: &str) -> pg::Client {
        pg::client::connect(&self.target(), &self.login(database), LIMIT)
            .await
            .unwrap()
    }

    /// A new, empty database; the answer is its name.
    pub async fn fresh_database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let client = self.client("postgres").await;
        // template0 has no visitors, who would be in the way of a copy.
        let sql = format!("create database {name} template template0");
        client.batch_execute(&sql).await.unwrap();
        name
    }

    fn block_on<T>(&self, work: impl Future<Output = T> + Send) -> T
    where
        T: Send,
    {
        // On a thread of its own: the caller may be inside a runtime.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap()
                    .block_on(work)
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self._watchdog.stdin.take());
        let _ = self._watchdog.wait();
    }
}

fn watch(bin: &Path, dir: &Path) -> Child {
    // `cat` ends when this process does; then nobody needs the server. The
    // directory itself lies in a sticky one, but is ours to remove.
    let script = "trap '' INT TERM HUP; cat; \
                  \"$0/pg_ctl\" stop -m immediate -D \"$1/data\"; cd /; rm -rf \"$1\"";
    let mut command = as_owner(Command::new("sh"), Path::new("/"));
    command.args(["-c", script]).arg(bin).arg(dir);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // A group of its own: an interrupt from the terminal is not for it.
    command.process_group(0).spawn().unwrap()
}

/// Makes the command run as the user who may run servers: root may not.
fn as_owner(mut command: Command, dir: &Path) -> Command {
    if let Some((uid, gid)) = owner() {
        command.uid(uid).gid(gid);
    }
    command.current_dir(dir);
    command
}

fn owner() -> Option<(u32, u32)> {
    let id = |args: &[&str]| -> Option<u32> {
        let out = Command::new("id").args(args).output().ok()?;
        String::from_utf8(out.stdout).ok()?.trim().parse().ok()
    };
    match id(&["-u"]) {
        Some(0) => id(&["-u", "postgres"]).zip(id(&["-g", "postgres"])),
        _ => None,
    }
}

/// Gives the files of a directory, and itself, to the user who runs servers.
pub fn own(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = owner() {
            chown(&path, Some(uid), Some(gid)).unwrap();
        }
    }
    if let Some((uid, gid)) = owner() {
        chown(dir, Some(uid), Some(gid)).unwrap();
    }
}
