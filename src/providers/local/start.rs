//! Starts a server, whatever state an earlier one has left behind.

use std::{process::Stdio, time::Duration};

use tokio::{process::Child, time::Instant};

use super::{
    command::{self, command},
    control::{Cluster, Found},
    directory::{Directory, blocking},
    failure, holders,
    lock::Lock,
    log::{Mark, STARTUP},
    processes::{self, PID_FILE},
    sockets,
};
use crate::{
    domain::{Error, Reason, Result, provider::Started},
    failpoint,
};

/// How often to check whether a server is up.
const PAUSE: Duration = Duration::from_millis(5);

/// How often, and for how long, a start is retried while processes of a former server are in the
/// way. The backends of a killed server release its shared memory within that time.
const RETRY: Duration = Duration::from_millis(100);
const RETRIES: Duration = Duration::from_secs(10);

/// How many names `FILE.staleN` are tried for a file that is set aside.
const STALE_MOST: u32 = 10;

/// Most bytes of `startup.log`. A longer one is removed before a start.
const STARTUP_MOST: u64 = 256 * 1024;

/// How much longer than its own timeout `pg_ctl` may run.
const GRACE: Duration = Duration::from_secs(5);

/// Result of one attempt to start.
enum Launch {
    /// The server is up.
    Up,
    /// The server did not start; the text is what it and `pg_ctl` have written.
    Down(String),
}

impl Cluster {
    /// Starts the server, or finds it running. Waits until it accepts connections and has proved
    /// that it is the server on record.
    ///
    /// `pg_ctl` inherits the lock and holds it until the server is up, even after a crash of
    /// this process. So the next process that gets the lock finds a running server, and never
    /// one that is about to appear.
    pub(crate) async fn start(&self, limit: Duration, lock: Option<&Lock>) -> Result<Started> {
        let begin = Instant::now();
        loop {
            let patient = begin.elapsed() < RETRIES;
            let waits = begin.elapsed() < limit;
            let found = self.look().await?;
            if lingers(&found) && patient {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            match found {
                Found::Missing => return Err(self.mismatch("its data directory is gone")),
                Found::Running(_) => match self.attach(begin + limit).await {
                    Ok(true) => return Ok(Started::Before),
                    Ok(false) if waits => continue,
                    Ok(false) => return Err(self.occupied("").await?),
                    Err(error) => return Err(error),
                },
                found if lingers(&found) => return Err(self.occupied("").await?),
                Found::Blocked(_) => self.set_aside()?,
                Found::Stopped | Found::Lingering => {}
            }
            match self.launch(limit, lock).await? {
                Launch::Up => {
                    failpoint::hit(self.points.started);
                    self.verify(begin + limit).await?;
                    return Ok(Started::Now);
                }
                Launch::Down(log) if patient && in_the_way(&log) => {
                    tokio::time::sleep(RETRY).await;
                }
                Launch::Down(log) if in_the_way(&log) => return Err(self.occupied(&log).await?),
                Launch::Down(log) => {
                    return Err(failure::start(
                        self.port,
                        &self.home,
                        &log,
                        &self.parameters,
                    ));
                }
            }
        }
    }

    /// Waits until a running server accepts connections and has proved that it is the server on
    /// record. `false` means that it has ended instead, because it was already shutting down.
    pub(crate) async fn attach(&self, deadline: Instant) -> Result<bool> {
        match self.verify(deadline).await {
            Ok(()) => Ok(true),
            Err(_) if !matches!(self.look().await?, Found::Running(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Renames a useless `postmaster.pid`, or whatever has that name, so that PostgreSQL can
    /// start.
    fn set_aside(&self) -> Result<()> {
        let Some(data) = self.open()? else {
            return Ok(());
        };
        let name = free_name(&data, PID_FILE)?;
        tracing::warn!(
            data = %self.data().display(),
            to = name,
            "no process belongs to the server's pid file, it is set aside"
        );
        data.rename(PID_FILE, &data, &name)
    }

    /// Runs `pg_ctl start`, and waits until the server is up or has failed.
    async fn launch(&self, limit: Duration, lock: Option<&Lock>) -> Result<Launch> {
        let sockets = self.make_socket_directory()?;
        self.clear_socket(&sockets).await?;
        self.prepare_startup_log()?;
        let mark = Mark::here(&self.home);
        let mut child = self.spawn_start(limit, lock)?;
        failpoint::hit(self.points.start_spawned);
        // `pg_ctl` checks ten times a second. Reading the pid file ourselves notices the start
        // earlier.
        let ended = tokio::select! {
            ended = command::finish(&mut child, limit + GRACE, command::OUTPUT) => ended,
            () = self.until_ready() => return Ok(Launch::Up),
        };
        if let Some(lock) = lock {
            // A hung start without a `pg_ctl` would hold the lock for ever.
            let (lock, data) = (lock.path().to_owned(), self.data());
            blocking(move || Ok(holders::end_hung_starts(&lock, &data))).await?;
        }
        let ended = ended.map_err(|error| failure::program(error, &self.programs))?;
        if ended.status.success() {
            return Ok(Launch::Up);
        }
        if let Found::Running(_) = self.look().await? {
            let message = "the server is still starting";
            return Err(Error::new(Reason::ServerUnavailable, message).with_context(mark.since()));
        }
        Ok(Launch::Down(format!(
            "{}{}{}",
            mark.since(),
            ended.errors,
            ended.output
        )))
    }

    /// `pg_ctl` runs the server in a new session, with /dev/null as standard input, so the
    /// server does not inherit the lock. From then on `postmaster.pid` keeps a second server
    /// out.
    fn spawn_start(&self, limit: Duration, lock: Option<&Lock>) -> Result<Child> {
        let lock = lock.map(Lock::stdin).transpose()?;
        let program = self.programs.join("pg_ctl");
        let startup = self.home.join(STARTUP);
        command(&program, self.run_as)
            .arg("--pgdata")
            .arg(self.data())
            .arg("--log")
            .arg(&startup)
            .args(["--wait", "--silent", "--timeout"])
            .arg(limit.as_secs().max(1).to_string())
            .arg("start")
            .stdin(lock.unwrap_or_else(Stdio::null))
            .spawn()
            .map_err(|error| failure::program(error, &program))
    }

    /// Limits the size of `startup.log`, because each start adds lines. Anything else than a
    /// regular file is moved away: `pg_ctl` would hang when it opens a FIFO without a reader, or
    /// a link into a dead mount.
    fn prepare_startup_log(&self) -> Result<()> {
        let path = self.home.join(STARTUP);
        let (Ok(facts), Some(home)) = (std::fs::symlink_metadata(&path), self.open_home()?) else {
            return Ok(());
        };
        if facts.is_file() {
            return match facts.len() > STARTUP_MOST {
                true => home.unlink(STARTUP),
                false => Ok(()),
            };
        }
        let name = free_name(&home, STARTUP)?;
        tracing::warn!(log = %path.display(), to = name, "the startup log is no file, it is set aside");
        home.rename(STARTUP, &home, &name)
    }

    async fn until_ready(&self) {
        loop {
            // Not [`Cluster::look`]: while the pid file is missing, that would inspect every
            // process of the machine each time.
            if self.is_ready().await.is_ok_and(|ready| ready) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub(crate) fn make_socket_directory(&self) -> Result<Directory> {
        sockets::open(&self.socket_directory, self.run_as)
    }
}

/// Finds a name for something that is in the place of a file. A file with that name is removed.
/// A directory with that name is kept, because a person put it there.
fn free_name(directory: &Directory, file: &str) -> Result<String> {
    let mut names = (0..STALE_MOST).map(|number| format!("{file}.stale{number}"));
    let make_free = |name: &String| directory.unlink(name).is_ok();
    names.find(make_free).ok_or_else(|| {
        let message = format!(
            "{} is of no use, and there are too many names beside it: move them away",
            directory.path().join(file).display()
        );
        Error::new(Reason::DataDirDamaged, message)
    })
}

/// Whether processes of a former server still exist, perhaps for a short time only. Either a
/// process works in the directory, or a process is attached to the shared memory of a postmaster
/// that is a zombie or whose pid was reused.
fn lingers(found: &Found) -> bool {
    match found {
        Found::Lingering => true,
        Found::Blocked(Some(file)) => file.shared_memory.is_some_and(processes::attached),
        Found::Blocked(None) | Found::Missing | Found::Stopped | Found::Running(_) => false,
    }
}

/// Whether a start failed because of another server on the same data, which is starting now or
/// was killed and has left processes behind.
fn in_the_way(log: &str) -> bool {
    log.contains("pre-existing shared memory block") || log.contains("lock file \"postmaster.pid\"")
}
