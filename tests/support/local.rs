//! Places for local servers, which end with the test.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use secrecy::SecretString;
use tempfile::TempDir;
use uuid::Uuid;

use howdah::{
    domain::{
        provider::{Placement, ServerSpec},
        version::Version,
    },
    pg::{self, Client, Host, Login, Target, Tls},
    providers::local::{Local, Settings, embedded::Options},
};

use super::{ports, scratch};

/// Password of the servers.
pub const PASSWORD: &str = "An-other_unlikely-Password-81c2";

/// A directory for servers; those that still run when it is dropped are killed.
pub struct Place {
    directory: TempDir,
}

impl Place {
    /// A new one, which the user that servers run as can pass.
    pub fn new() -> Self {
        let directory = scratch::directory("hw-");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        Self { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The local provider's settings in it.
    pub fn settings(&self) -> Settings {
        Settings {
            run_directory: self.path().join("run"),
            start_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(60),
            ..Settings::new(self.path().join("local"))
        }
    }

    pub fn local(&self) -> Local {
        Local::new(self.settings()).unwrap()
    }

    /// The embedded server's options in it.
    pub fn embedded(&self) -> Options {
        Options {
            run_directory: self.path().join("erun"),
            ..Options::new(self.path().join("state"))
        }
    }

    /// The home of a server.
    pub fn home(&self, server: &ServerSpec) -> PathBuf {
        self.path()
            .join("local/servers")
            .join(server.uid.to_string())
    }

    fn homes(&self) -> Vec<PathBuf> {
        let mut homes = vec![self.path().join("state/metadata")];
        for parent in ["local/servers", "local/trash", "local/templates"] {
            let entries = fs::read_dir(self.path().join(parent));
            homes.extend(entries.into_iter().flatten().flatten().map(|e| e.path()));
        }
        homes
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for home in self.homes() {
            if let Some(pid) = postmaster(&home) {
                end(pid);
            }
        }
    }
}

/// The running postmaster of a home.
pub fn postmaster(home: &Path) -> Option<Pid> {
    let text = fs::read_to_string(home.join("data/postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let ours = String::from_utf8_lossy(&command).contains(&*home.to_string_lossy());
    ours.then(|| Pid::from_raw(pid)).flatten()
}

/// Kills a process as a crash would, and waits for its end.
pub fn end(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
    let begin = Instant::now();
    while runs(pid) && begin.elapsed() < Duration::from_secs(10) {
        std::thread::yield_now();
    }
}

/// Whether a process is there and no zombie.
pub fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_ok() && stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// The version of PostgreSQL that tests need, and find under its usual place.
pub fn installed() -> Version {
    let output = std::process::Command::new("/usr/lib/postgresql/15/bin/postgres")
        .arg("--version")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// A server to be made.
pub fn server(local: &Local) -> ServerSpec {
    ServerSpec {
        provider: "local".into(),
        address: None,
        uid: Uuid::new_v4(),
        version: installed(),
        placement: Some(Placement {
            host: local.host(),
            port: ports::one(),
        }),
        parameters: [].into(),
        ephemeral: false,
        admin_password: SecretString::from(PASSWORD),
        system_identifier: None,
        token: 1,
    }
}

/// The server's port.
pub fn port(server: &ServerSpec) -> u16 {
    server.placement.unwrap().port
}

/// Connects as `howdah_admin`.
pub async fn connect(host: Host, port: u16) -> Result<Client, pg::Error> {
    let target = Target {
        host,
        port,
        tls: Tls::Disable,
    };
    let login = Login {
        user: "howdah_admin".into(),
        password: Some(SecretString::from(PASSWORD)),
        database: "postgres".into(),
    };
    Box::pin(pg::client::connect(
        &target,
        &login,
        Duration::from_secs(10),
    ))
    .await
}
