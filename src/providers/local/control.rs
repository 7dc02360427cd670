//! One server on this machine, a user's or the embedded one: finding its state, stopping it,
//! watching it.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use secrecy::SecretString;
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

use super::{
    Points, SERVER,
    directory::{Directory, blocking},
    failure,
    processes::{self, Note, PidFile, Process},
    user::RunAs,
    verify::FIRST_DATABASE,
};
use crate::{
    domain::{Error, Reason, Result},
    failpoint,
};

/// Directory of the data in a server's home.
pub(crate) const DATA: &str = "data";

/// How often to check whether the processes of a killed server are gone.
const PAUSE: Duration = Duration::from_millis(100);

/// Signals for a server that did not stop by a fast shutdown, with the wait after each. After
/// SIGQUIT the postmaster kills its own processes within 5 s.
const ESCALATION: [(Signal, Duration); 2] = [
    (Signal::QUIT, Duration::from_secs(7)),
    (Signal::KILL, Duration::from_secs(3)),
];

/// How often to check whether the socket of a running server still exists.
const SOCKET_LOOK: Duration = Duration::from_secs(2);

/// How many times leftover processes are killed before the call gives up.
const CLEAR_TRIES: u32 = 100;

/// A PostgreSQL server that Howdah created. `home` holds `data`, `log` and `startup.log`.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// Directory of PostgreSQL's programs. Empty where the server is not started.
    pub(crate) programs: PathBuf,
    /// Directory that holds the data and the logs.
    pub(crate) home: PathBuf,
    /// Directory of the Unix socket.
    pub(crate) socket_directory: PathBuf,
    /// TCP port; also part of the socket's name.
    pub(crate) port: u16,
    /// Password of `howdah_admin`.
    pub(crate) password: SecretString,
    /// Database to connect to; created if it is missing.
    pub(crate) database: &'static str,
    /// System identifier on record; none if the metadata does not know it yet.
    pub(crate) system_identifier: Option<u64>,
    /// Operating system user that the server runs as.
    pub(crate) run_as: RunAs,
    /// Parameters that the user has set. One of them may be the reason why a start fails.
    pub(crate) parameters: BTreeMap<String, String>,
    /// Failpoints at which a test can kill this process.
    pub(crate) points: &'static Points,
}

/// State of a server, as found in its directory and in `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is no data directory.
    Missing,
    /// There is a data directory, and no process works in it.
    Stopped,
    /// No process works in the data directory, but PostgreSQL would refuse to start because of
    /// `postmaster.pid`: the file names an unrelated process, is damaged, or is not a file.
    Blocked(Option<PidFile>),
    /// Processes work in the data directory, but there is no postmaster.
    Lingering,
    /// The postmaster runs. Fields of the pid file may be missing.
    Running(PidFile),
}

impl Cluster {
    /// A server that is only to be stopped. Its directory is enough for that.
    pub(crate) fn to_stop(home: PathBuf, socket_directory: PathBuf, run_as: RunAs) -> Self {
        Self {
            programs: PathBuf::new(),
            home,
            socket_directory,
            port: 0,
            password: SecretString::default(),
            database: FIRST_DATABASE,
            system_identifier: None,
            run_as,
            parameters: BTreeMap::new(),
            points: &SERVER,
        }
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.home.join(DATA)
    }

    /// Finds the state of the server without a connection to it.
    pub(crate) async fn look(&self) -> Result<Found> {
        let (home, run_as) = (self.home.clone(), self.run_as);
        blocking(move || look(&home, run_as)).await
    }

    /// The same, blocking the current thread, for callers that are not async.
    pub(crate) fn look_here(&self) -> Result<Found> {
        look(&self.home, self.run_as)
    }

    /// Whether the server runs and accepts connections, judged by `postmaster.pid` alone.
    pub(crate) async fn is_ready(&self) -> Result<bool> {
        let (home, run_as) = (self.home.clone(), self.run_as);
        blocking(move || {
            let Some(data) = open(&home)? else {
                return Ok(false);
            };
            let file = Note::read(&data, run_as)?.file;
            Ok(file.is_some_and(|file| {
                let process = || processes::of_pid(file.pid, &home.join(DATA));
                file.ready && process() == Process::Postmaster
            }))
        })
        .await
    }

    /// The ids of the server's processes, which have the data directory as working directory or
    /// argument.
    async fn at_work(&self) -> Result<Vec<i32>> {
        let (data, uid) = (self.data(), self.run_as.uid());
        blocking(move || processes::of_server(&data, uid)).await
    }

    /// Opens the data directory; none if it is missing.
    pub(crate) fn open(&self) -> Result<Option<Directory>> {
        open(&self.home)
    }

    /// Opens the directory that holds data and logs; none if it is missing.
    pub(crate) fn open_home(&self) -> Result<Option<Directory>> {
        Directory::below(&self.home)
    }

    /// Stops the server with a fast shutdown. Does nothing if it is stopped already.
    pub(crate) async fn stop(&self, limit: Duration) -> Result<()> {
        self.stop_by(Signal::INT, limit).await
    }

    /// Stops a server that is going to be deleted: by a fast shutdown, after `patience` by an
    /// immediate one, then by SIGKILL.
    pub(crate) async fn stop_at_any_cost(&self, patience: Duration) -> Result<()> {
        let fast = (Signal::INT, patience);
        for (signal, limit) in std::iter::once(fast).chain(ESCALATION) {
            // There is no postmaster that could receive a signal.
            if signal != Signal::INT && self.look().await? == Found::Lingering {
                break;
            }
            match self.stop_by(signal, limit).await {
                Err(error) if error.reason() == Reason::ServerNotStopped => {
                    tracing::warn!(home = %self.home.display(), ?signal, "a server does not stop");
                }
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        self.clear().await
    }

    /// Kills the server's processes that have no postmaster. A process that was frozen when its
    /// postmaster ended does not notice the end.
    async fn clear(&self) -> Result<()> {
        for _ in 0..CLEAR_TRIES {
            let at_work = self.at_work().await?;
            if at_work.is_empty() {
                return Ok(());
            }
            self.kill(at_work);
            tokio::time::sleep(PAUSE).await;
        }
        let message = "processes of the server cannot be killed";
        Err(Error::new(Reason::ServerUnavailable, message))
    }

    /// Sends a signal to the postmaster, and waits until no process of the server is left.
    async fn stop_by(&self, signal: Signal, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            match self.look().await? {
                Found::Missing | Found::Stopped | Found::Blocked(_) => return Ok(()),
                Found::Running(file) => {
                    // The postmaster ended between the look and the handle: look again.
                    let Some(process) = self.watch(&file)? else {
                        continue;
                    };
                    // `pg_ctl stop` sends the same signals: INT for fast, QUIT for immediate.
                    // Unlike a pid, the handle cannot refer to another process later.
                    let _ = pidfd_send_signal(process.get_ref(), signal);
                    failpoint::hit(self.points.stop_signalled);
                    let ended = tokio::time::timeout_at(deadline, process.readable()).await;
                    if let Ok(Err(error)) = ended {
                        return Err(failure::watch(error));
                    }
                }
                Found::Lingering => tokio::time::sleep(PAUSE).await,
            }
            if Instant::now() >= deadline {
                return Err(self.not_stopped().await?);
            }
        }
    }

    /// The error for a server that did not stop, with the remedy.
    async fn not_stopped(&self) -> Result<Error> {
        let message = match self.look().await? {
            Found::Running(file) => format!(
                "the server did not stop in time: it still writes its data, or is frozen; `kill \
                 -QUIT {0}; kill -CONT {0}` ends it as a crash would",
                file.pid
            ),
            Found::Lingering => self.occupied("").await?.message().to_owned(),
            Found::Missing | Found::Stopped | Found::Blocked(_) => {
                "the server did not stop in time".to_owned()
            }
        };
        Ok(Error::new(Reason::ServerNotStopped, message))
    }

    /// The error for processes that work in the data directory without a postmaster, with the
    /// remedy. `log` is added as context.
    pub(crate) async fn occupied(&self, log: &str) -> Result<Error> {
        let at_work = self.at_work().await?;
        let pids: Vec<String> = at_work.iter().map(ToString::to_string).collect();
        let message = match pids.as_slice() {
            [] => "something of a former server still uses its shared memory".to_owned(),
            pids => format!(
                "processes of a former server still use the data directory: they must end, by \
                 themselves or by `kill -QUIT {}`",
                pids.join(" ")
            ),
        };
        let context = format!("{} {}", self.home.display(), log.trim());
        Ok(Error::new(Reason::ServerUnavailable, message).with_context(context))
    }

    /// Kills those of the processes that still belong to the server.
    fn kill(&self, pids: Vec<i32>) {
        for pid in pids {
            let Some(pid) = Pid::from_raw(pid) else {
                continue;
            };
            let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            // Checked again, because the pid may have been reused before the handle existed.
            if processes::is_of_server(pid.as_raw_pid(), &self.data(), self.run_as.uid()) {
                let _ = pidfd_send_signal(handle, Signal::KILL);
            }
        }
    }

    /// Returns when the postmaster has ended, or when the existence of the socket differs from
    /// `had_socket`. Returns at once if the server does not run.
    pub(crate) async fn changed(&self, had_socket: bool) -> Result<()> {
        while let Found::Running(file) = self.look().await? {
            let Some(process) = self.watch(&file)? else {
                continue;
            };
            while self.has_socket() == had_socket {
                let ended = tokio::time::timeout(SOCKET_LOOK, process.readable()).await;
                if let Ok(ended) = ended {
                    return ended.map(|_| ()).map_err(failure::watch);
                }
            }
            return Ok(());
        }
        Ok(())
    }

    /// Returns when the postmaster has ended; at once if the server does not run.
    pub(crate) async fn ended(&self) -> Result<()> {
        while let Found::Running(file) = self.look().await? {
            if let Some(process) = self.watch(&file)? {
                let ended = process.readable().await;
                return ended.map(|_| ()).map_err(failure::watch);
            }
        }
        Ok(())
    }

    /// A handle of the postmaster that becomes readable when the process ends; none if it has
    /// ended.
    fn watch(&self, file: &PidFile) -> Result<Option<AsyncFd<OwnedFd>>> {
        let Some(pid) = Pid::from_raw(file.pid) else {
            return Ok(None);
        };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(failure::watch(error.into())),
        };
        // Checked again, because the pid may have been reused before the handle existed.
        if processes::of_pid(file.pid, &self.data()) != Process::Postmaster {
            return Ok(None);
        }
        #[expect(
            deprecated,
            reason = "the replacement is unsafe; the handle is owned, and closed with it"
        )]
        let watched = AsyncFd::with_interest(handle, Interest::READABLE);
        watched.map(Some).map_err(failure::watch)
    }

    /// The error for data that does not belong to the server on record.
    pub(crate) fn mismatch(&self, why: &str) -> Error {
        let message = format!("what is found is not the server on record: {why}");
        Error::new(Reason::ServerMismatch, message).with_context(self.home.display().to_string())
    }
}

fn open(home: &Path) -> Result<Option<Directory>> {
    match Directory::below(home)? {
        Some(home) => home.child(DATA),
        None => Ok(None),
    }
}

/// The state of the server at `home`. `postmaster.pid` is trusted only as far as `/proc`
/// confirms it: the file may be stale, and its pid may belong to another process now.
fn look(home: &Path, run_as: RunAs) -> Result<Found> {
    let (data, uid) = (home.join(DATA), run_as.uid());
    let Some(opened) = open(home)? else {
        // The directory may have been moved away while its server runs.
        return unless_at_work(Found::Missing, &data, uid);
    };
    let note = Note::read(&opened, run_as)?;
    let Some(file) = &note.file else {
        return unless_at_work(note.found(false), &data, uid);
    };
    match processes::of_pid(file.pid, &data) {
        Process::Postmaster => Ok(Found::Running(file.clone())),
        Process::Inside => Ok(Found::Lingering),
        // Like PostgreSQL, which takes a process that it may not signal for one that is gone.
        Process::Stranger { uid: its } if its == uid => {
            unless_at_work(note.found(true), &data, uid)
        }
        Process::Stranger { .. } | Process::Gone => unless_at_work(note.found(false), &data, uid),
    }
}

/// Returns `found`, unless processes of the server are at work although `postmaster.pid` names
/// none of them. The file may have been removed or damaged under a running server. PostgreSQL
/// checks the file every minute, and shuts down then.
fn unless_at_work(found: Found, data: &Path, uid: u32) -> Result<Found> {
    let at_work = processes::of_server(data, uid)?;
    if at_work.is_empty() {
        return Ok(found);
    }
    let postmaster = processes::postmaster_among(&at_work, data);
    Ok(postmaster.map_or(Found::Lingering, |pid| Found::Running(PidFile::of(pid))))
}
