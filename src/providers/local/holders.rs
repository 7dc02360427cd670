//! Finds the processes that hold a lock file, from `/proc` (proc(5)).

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::processes::parent;

const PROCESSES: &str = "/proc";

/// A process that holds a lock file: it has inherited the open file that the lock belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// Process id.
    pub(super) pid: i32,
    /// Name of the program.
    name: String,
    /// Whether the process was stopped by a signal, such as SIGSTOP.
    stopped: bool,
}

/// The processes that hold the lock file, without this process. Processes that this one may not
/// inspect are missing.
pub(super) fn of(lock: &Path) -> Vec<Holder> {
    let Ok(facts) = fs::metadata(lock) else {
        return Vec::new();
    };
    let file = (facts.dev(), facts.ino());
    let own = rustix::process::getpid().as_raw_pid();
    let entries = fs::read_dir(PROCESSES).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own && holds(*pid, file))
        .map(|pid| Holder {
            pid,
            name: name(pid),
            stopped: is_stopped(pid),
        })
        .collect()
}

/// Whether the process has that file open and holds the lock on it. A process that waits for the
/// lock has the file open too, but its `fdinfo` shows no lock.
fn holds(pid: i32, file: (u64, u64)) -> bool {
    let files = fs::read_dir(of_process(pid, "fd")).into_iter().flatten();
    files.flatten().any(|entry| {
        let same = fs::metadata(entry.path()).is_ok_and(|it| (it.dev(), it.ino()) == file);
        let locked = || {
            let facts = of_process(pid, "fdinfo").join(entry.file_name());
            let facts = fs::read_to_string(facts).unwrap_or_default();
            let mut lines = facts.lines();
            lines.any(|line| line.starts_with("lock:") && line.contains("FLOCK"))
        };
        same && locked()
    })
}

fn of_process(pid: i32, what: &str) -> PathBuf {
    PathBuf::from(format!("{PROCESSES}/{pid}/{what}"))
}

fn name(pid: i32) -> String {
    let name = fs::read_to_string(of_process(pid, "comm")).unwrap_or_default();
    name.trim().to_owned()
}

fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(of_process(pid, "stat")).unwrap_or_default();
    // The program's name is in parentheses, and may itself contain any character.
    let state = stat.rsplit_once(") ").map(|(_, facts)| facts);
    state.is_some_and(|state| state.starts_with('T'))
}

/// Describes the holder of a server's lock, for the text of what an operation waits for.
pub(super) fn waited_for(lock: &Path) -> String {
    match of(lock).as_slice() {
        [] => "another process that works on the server".to_owned(),
        [Holder { pid, name, stopped }, ..] => {
            let stopped = if *stopped { " and is stopped" } else { "" };
            format!("process {pid} ({name}), which works on the server{stopped}")
        }
    }
}

/// The message for a lock that was not granted in time, with the remedy.
pub(super) fn in_vain(lock: &Path) -> String {
    let remedy = match of(lock).as_slice() {
        [Holder { pid, stopped, .. }, ..] if *stopped => {
            format!(": `kill -CONT {pid}` lets it go on, and `kill -KILL {pid}` ends it")
        }
        [Holder { pid, .. }, ..] => format!(": if it hangs, `kill -KILL {pid}` ends it"),
        [] => String::new(),
    };
    format!("waited in vain for {}{remedy}", waited_for(lock))
}

/// Kills a hung start that holds the lock of the server on `data`. Such a start is the shell
/// that was to become the server. It hangs, for example on a dead mount, and its `pg_ctl` is
/// gone, so it would hold the lock for ever. Returns whether a process was killed.
pub(super) fn end_hung_starts(lock: &Path, data: &Path) -> bool {
    let hung = of(lock)
        .into_iter()
        .filter(|it| is_hung_start(it.pid, data));
    let mut ended = false;
    for Holder { pid, .. } in hung {
        let process = Pid::from_raw(pid);
        let handle = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Checked again, because the pid may have been reused before the handle existed.
        if let Some(handle) = handle.filter(|_| is_hung_start(pid, data)) {
            tracing::warn!(pid, data = %data.display(), "a start that hangs is ended");
            ended |= pidfd_send_signal(handle, Signal::KILL).is_ok();
        }
    }
    ended
}

/// Whether a process is the shell in which `pg_ctl` starts a server on `data`, and `pg_ctl` is
/// no longer its parent. `start_postmaster` of `pg_ctl` runs
/// `/bin/sh -c 'exec "postgres" -D "data" ...'`.
fn is_hung_start(pid: i32, data: &Path) -> bool {
    let command = fs::read(of_process(pid, "cmdline")).unwrap_or_default();
    let mut arguments = command.split(|byte| *byte == 0);
    let shell = arguments.next() == Some(b"/bin/sh") && arguments.next() == Some(b"-c");
    let script = arguments.next().unwrap_or_default();
    let script = String::from_utf8_lossy(script);
    let of_data = format!("-D \"{}\"", data.display());
    let starts = script.starts_with("exec ") && script.contains(&of_data);
    shell && starts && parent(pid).is_some_and(|parent| name(parent) != "pg_ctl")
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Child, Command},
        time::Duration,
    };

    use rustix::process::kill_process;

    use super::*;
    use crate::providers::local::lock::Lock;

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(60);

    /// Runs the same shell command as `pg_ctl`, with a FIFO that has no reader as the log.
    fn hangs(lock: &Lock, place: &Path) -> Child {
        let fifo = place.join("startup.log");
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let data = place.join("data");
        let script = format!(
            "exec \"postgres\" -D \"{}\"  < \"/dev/null\" >> \"{}\" 2>&1",
            data.display(),
            fifo.display()
        );
        Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(lock.stdin().unwrap())
            .spawn()
            .unwrap()
    }

    #[tokio::test]
    async fn a_start_that_hangs_lets_go_of_the_lock() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("lock");
        let lock = Lock::acquire(path.clone(), SHORT).await.unwrap();
        let mut child = hangs(&lock, place.path());
        let pid = i32::try_from(child.id()).unwrap();
        drop(lock);
        let refused = Lock::acquire(path.clone(), SHORT).await.unwrap_err();
        assert!(refused.message().contains(&pid.to_string()), "{refused}");
        assert!(!end_hung_starts(&path, &place.path().join("other")));
        assert!(end_hung_starts(&path, &place.path().join("data")));
        Lock::acquire(path, LONG).await.unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn who_holds_a_lock_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("lock");
        assert_eq!(of(&path), []);
        let lock = Lock::acquire(path.clone(), SHORT).await.unwrap();
        // The first child holds the lock; the second one only has the file open.
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(lock.stdin().unwrap())
            .spawn()
            .unwrap();
        let mut waits = Command::new("sleep")
            .arg("60")
            .stdin(fs::File::open(&path).unwrap())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let stopped = || of(&path).iter().any(|holder| holder.stopped);
        assert_eq!(of(&path).iter().map(|it| it.pid).collect::<Vec<_>>(), [pid]);
        assert!(!stopped());
        assert!(in_vain(&path).contains(&format!("process {pid} (")));
        kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
        let end = std::time::Instant::now() + LONG;
        while !stopped() && std::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(in_vain(&path).contains(&format!("`kill -CONT {pid}`")));
        assert!(waited_for(&path).ends_with("and is stopped"));
        for child in [&mut child, &mut waits] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(of(&path), []);
    }
}
