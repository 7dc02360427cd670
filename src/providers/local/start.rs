//! Starting a server, whatever a former one has left.

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

/// How often it is looked whether a server is up.
const PAUSE: Duration = Duration::from_millis(5);

/// How often a start that another process stands in the way of is tried, and how
/// long: backends of a killed server let go of its shared memory within that.
const RETRY: Duration = Duration::from_millis(100);
const RETRIES: Duration = Duration::from_secs(10);

/// How many directories in the place of a file are kept.
const STALE_MOST: u32 = 10;

/// Longest that `startup.log` grows, in bytes.
const STARTUP_MOST: u64 = 256 * 1024;

/// How much longer than its own limit `pg_ctl` may take.
const GRACE: Duration = Duration::from_secs(5);

/// How a try to start ended.
enum Launch {
    Up,
    Down(String),
}

impl Cluster {
    /// Starts the server, or finds that it runs, and waits until it takes
    /// connections and has shown that it is the right one. `pg_ctl` keeps the lock
    /// until the server is up, also after a crash of this process: who comes next
    /// finds a server, and not one that is just about to appear.
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

    /// Waits until a server that runs takes connections and has shown that it is the right
    /// one. `false` when it has ended instead: it was on its way down.
    pub(crate) async fn attach(&self, deadline: Instant) -> Result<bool> {
        match self.verify(deadline).await {
            Ok(()) => Ok(true),
            Err(_) if !matches!(self.look().await?, Found::Running(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves a pid file of no use out of the way, or what is in its place.
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

    /// Lets `pg_ctl` start the server and waits until it is up or has failed.
    async fn launch(&self, limit: Duration, lock: Option<&Lock>) -> Result<Launch> {
        let sockets = self.make_socket_directory()?;
        self.clear_socket(&sockets).await?;
        self.prepare_startup_log()?;
        let mark = Mark::here(&self.home);
        let mut child = self.spawn_start(limit, lock)?;
        failpoint::hit(self.points.start_spawned);
        // pg_ctl looks ten times a second; reading the pid file ourselves is faster.
        let ended = tokio::select! {
            ended = command::finish(&mut child, limit + GRACE, command::OUTPUT) => ended,
            () = self.until_ready() => return Ok(Launch::Up),
        };
        if let Some(lock) = lock {
            // It would keep the lock for ever.
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

    /// `pg_ctl` gives the server a session of its own, and /dev/null in the place of the
    /// lock: `postmaster.pid` is what keeps a second server out.
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

    /// Limits the log, to which each start adds a few lines. Anything that is not a regular file
    /// is moved away: `pg_ctl` would hang when it opens a FIFO without a reader, or a link to a
    /// dead mount.
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
            // Where the file names no process, all of them would be looked at.
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

/// A name for something of no use that is in the place of a file. A directory that was set
/// aside before is kept: a person put it there.
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

/// Whether processes of a former server are still there, maybe not for long: one
/// works in the directory, or something is attached to the shared memory of a
/// postmaster that is a zombie, or whose pid was reused.
fn lingers(found: &Found) -> bool {
    match found {
        Found::Lingering => true,
        Found::Blocked(Some(file)) => file.shared_memory.is_some_and(processes::attached),
        Found::Blocked(None) | Found::Missing | Found::Stopped | Found::Running(_) => false,
    }
}

/// Whether a start failed because of another server on the same data: one that
/// starts right now, or what a killed one left.
fn in_the_way(log: &str) -> bool {
    log.contains("pre-existing shared memory block") || log.contains("lock file \"postmaster.pid\"")
}
