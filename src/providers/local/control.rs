//! One server, whoever owns it: looking what is there, stopping, watching.

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

/// How often it is looked whether the processes of a killed server are gone.
const PAUSE: Duration = Duration::from_millis(100);

/// Signals for a server that did not stop within the patience, with the wait after each.
/// After SIGQUIT the postmaster kills its own processes within 5 s.
const ESCALATION: [(Signal, Duration); 2] = [
    (Signal::QUIT, Duration::from_secs(7)),
    (Signal::KILL, Duration::from_secs(3)),
];

/// How often it is looked whether the socket of a running server is still there.
const SOCKET_LOOK: Duration = Duration::from_secs(2);

/// How often what was left is killed before it is given up.
const CLEAR_TRIES: u32 = 100;

/// A PostgreSQL server that Howdah made: `data`, `log` and `startup.log` in `home`.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// Directory with the programs.
    pub(crate) programs: PathBuf,
    /// Directory that holds all of it.
    pub(crate) home: PathBuf,
    /// Directory of the Unix socket.
    pub(crate) socket_directory: PathBuf,
    /// Port, also part of the socket's name.
    pub(crate) port: u16,
    /// Password of `howdah_admin`.
    pub(crate) password: SecretString,
    /// Database to connect to; made if it is missing.
    pub(crate) database: &'static str,
    /// What its system identifier must be, if that is known.
    pub(crate) system_identifier: Option<u64>,
    /// Who it runs as.
    pub(crate) run_as: RunAs,
    /// Settings of its user, one of which may be why it does not start.
    pub(crate) parameters: BTreeMap<String, String>,
    /// Where a test can kill this process.
    pub(crate) points: &'static Points,
}

/// What was found at the place of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No data directory.
    Missing,
    /// A data directory that no process works in.
    Stopped,
    /// No process works in it, and PostgreSQL would refuse to start because of
    /// `postmaster.pid`: it names an unrelated process, is damaged, or is not a file.
    Blocked(Option<PidFile>),
    /// Processes work in it without a postmaster.
    Lingering,
    /// Its postmaster runs. What `postmaster.pid` says may be missing.
    Running(PidFile),
}

impl Cluster {
    /// A server as something to stop, which its place suffices for.
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

    /// Looks what is there, without a connection.
    pub(crate) async fn look(&self) -> Result<Found> {
        let (home, run_as) = (self.home.clone(), self.run_as);
        blocking(move || look(&home, run_as)).await
    }

    /// The same on this thread, where nothing can be waited for.
    pub(crate) fn look_here(&self) -> Result<Found> {
        look(&self.home, self.run_as)
    }

    /// Whether the server runs and takes connections, by its `postmaster.pid` alone.
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

    /// The processes that work in the data directory.
    async fn at_work(&self) -> Result<Vec<i32>> {
        let (data, uid) = (self.data(), self.run_as.uid());
        blocking(move || processes::of_server(&data, uid)).await
    }

    /// Opens the data directory, if it is there.
    pub(crate) fn open(&self) -> Result<Option<Directory>> {
        open(&self.home)
    }

    /// Opens the directory that holds data and logs, if it is there.
    pub(crate) fn open_home(&self) -> Result<Option<Directory>> {
        Directory::below(&self.home)
    }

    /// Stops the server ("fast"), or finds that it is stopped.
    pub(crate) async fn stop(&self, limit: Duration) -> Result<()> {
        self.stop_by(Signal::INT, limit).await
    }

    /// Stops a server that is going to be deleted: a fast shutdown, after `patience` an
    /// immediate one, then SIGKILL.
    pub(crate) async fn stop_at_any_cost(&self, patience: Duration) -> Result<()> {
        let fast = (Signal::INT, patience);
        for (signal, limit) in std::iter::once(fast).chain(ESCALATION) {
            // No postmaster is known that a signal could be sent to.
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

    /// Kills what works in the data directory without a postmaster: processes that were
    /// frozen when theirs ended do not notice.
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

    /// Sends a signal to the postmaster, and waits until no process is left.
    async fn stop_by(&self, signal: Signal, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            match self.look().await? {
                Found::Missing | Found::Stopped | Found::Blocked(_) => return Ok(()),
                Found::Running(file) => {
                    let Some(process) = self.watch(&file)? else {
                        continue;
                    };
                    // As `pg_ctl stop` does with INT for fast and QUIT for immediate, but
                    // never to a reused pid.
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

    /// That a server did not stop, and what can be done about it.
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

    /// That processes work in the data directory without a postmaster, and what can be
    /// done about them.
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

    /// Kills those of the processes that still work in the data directory.
    fn kill(&self, pids: Vec<i32>) {
        for pid in pids {
            let Some(pid) = Pid::from_raw(pid) else {
                continue;
            };
            let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            // The pid may have been reused before the handle was there.
            if processes::is_of_server(pid.as_raw_pid(), &self.data(), self.run_as.uid()) {
                let _ = pidfd_send_signal(handle, Signal::KILL);
            }
        }
    }

    /// Returns when the running server's process has ended, or when its socket was there
    /// and is not any more, or the other way round; at once if it does not run.
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

    /// Returns when the running server's process has ended; at once if it does not run.
    pub(crate) async fn ended(&self) -> Result<()> {
        while let Found::Running(file) = self.look().await? {
            if let Some(process) = self.watch(&file)? {
                let ended = process.readable().await;
                return ended.map(|_| ()).map_err(failure::watch);
            }
        }
        Ok(())
    }

    /// A handle of the postmaster, readable when it has ended; none if it has.
    fn watch(&self, file: &PidFile) -> Result<Option<AsyncFd<OwnedFd>>> {
        let Some(pid) = Pid::from_raw(file.pid) else {
            return Ok(None);
        };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(failure::watch(error.into())),
        };
        // The pid may have been reused before the handle was there.
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

    /// What is there is not what should be.
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

fn look(home: &Path, run_as: RunAs) -> Result<Found> {
    let (data, uid) = (home.join(DATA), run_as.uid());
    let Some(opened) = open(home)? else {
        // It may have been moved away under a server that runs.
        return unless_at_work(Found::Missing, &data, uid);
    };
    let note = Note::read(&opened, run_as)?;
    let Some(file) = &note.file else {
        return unless_at_work(note.found(false), &data, uid);
    };
    match processes::of_pid(file.pid, &data) {
        Process::Postmaster => Ok(Found::Running(file.clone())),
        Process::Inside => Ok(Found::Lingering),
        // PostgreSQL takes what it may send no signal to for gone.
        Process::Stranger { uid: its } if its == uid => {
            unless_at_work(note.found(true), &data, uid)
        }
        Process::Stranger { .. } | Process::Gone => unless_at_work(note.found(false), &data, uid),
    }
}

/// What is found where `postmaster.pid` names no process of the server. The file may
/// have been removed or damaged under a server that runs; PostgreSQL looks at it each
/// minute, and ends then.
fn unless_at_work(found: Found, data: &Path, uid: u32) -> Result<Found> {
    let at_work = processes::of_server(data, uid)?;
    if at_work.is_empty() {
        return Ok(found);
    }
    let postmaster = processes::postmaster_among(&at_work, data);
    Ok(postmaster.map_or(Found::Lingering, |pid| Found::Running(PidFile::of(pid))))
}
