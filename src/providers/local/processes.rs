//! Decides which process serves a data directory.

use std::{
    collections::HashMap,
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{control::Found, directory::Directory, failure, user::RunAs};
use crate::domain::{Reason, Result};

/// The postmaster's pid file in the data directory.
pub(crate) const PID_FILE: &str = "postmaster.pid";

/// Most bytes that are read of the pid file.
const PID_FILE_MOST: u64 = 64 * 1024;

/// Where Linux lists processes.
const PROCESSES: &str = "/proc";

/// Contents of `postmaster.pid` (PostgreSQL's `src/include/utils/pidfile.h`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PidFile {
    /// Process id of the postmaster.
    pub(crate) pid: i32,
    /// Start time in seconds since 1970; none if the line is missing.
    pub(crate) started: Option<i64>,
    /// TCP port of the postmaster; none if the line is missing.
    pub(crate) port: Option<u16>,
    /// Directory of its Unix socket, if that is there.
    pub(crate) socket_directory: Option<PathBuf>,
    /// First address that it listens on, or `*`; empty if it does not listen by TCP.
    pub(crate) listens_on: String,
    /// Key and id of its System V shared memory; none before it has created that.
    pub(crate) shared_memory: Option<(u64, u64)>,
    /// Whether it accepts connections.
    pub(crate) ready: bool,
}

impl PidFile {
    /// Parses the file; none if it does not begin with a process id. Missing lines give empty
    /// fields.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let line = |index: usize| text.lines().nth(index).map(str::trim);
        // A standalone backend writes its pid as a negative number.
        let pid = line(0)?.parse::<i32>().ok()?.checked_abs()?;
        let shared_memory = line(6).and_then(|both| {
            let (key, id) = both.split_once(char::is_whitespace)?;
            Some((key.parse().ok()?, id.trim().parse().ok()?))
        });
        Some(Self {
            pid,
            started: line(2).and_then(|text| text.parse().ok()),
            port: line(3).and_then(|text| text.parse().ok()),
            socket_directory: line(4)
                .filter(|text| text.starts_with('/'))
                .map(PathBuf::from),
            listens_on: line(5).unwrap_or_default().to_owned(),
            shared_memory,
            ready: matches!(line(7), Some("ready" | "standby")),
        })
        .filter(|file| file.pid > 0)
    }

    /// A pid file of which only the pid is known.
    pub(crate) fn of(pid: i32) -> Self {
        Self {
            pid,
            started: None,
            port: None,
            socket_directory: None,
            listens_on: String::new(),
            shared_memory: None,
            ready: false,
        }
    }
}

/// What exists under the name `postmaster.pid`.
#[derive(Debug)]
pub(crate) struct Note {
    /// Contents of the file; none if they cannot be parsed.
    pub(crate) file: Option<PidFile>,
    /// Whether PostgreSQL would start if no process matches the pid file: the file is missing,
    /// or is one that PostgreSQL can read and remove.
    passable: bool,
}

impl Note {
    /// Reads `postmaster.pid` in a data directory.
    ///
    /// # Errors
    /// Errors of the file system. A foreign or damaged file is not an error.
    pub(crate) fn read(data: &Directory, run_as: RunAs) -> Result<Self> {
        let blocking = Self {
            file: None,
            passable: false,
        };
        let blocked = [Reason::DataDirDamaged, Reason::DataDirUnwritable];
        let opened = match data.file(PID_FILE) {
            Err(error) if blocked.contains(&error.reason()) => return Ok(blocking),
            opened => opened?,
        };
        let Some(opened) = opened else {
            return Ok(Self {
                file: None,
                passable: true,
            });
        };
        let failed = |error| failure::file(error, &data.path().join(PID_FILE));
        let facts = opened.metadata().map_err(failed)?;
        if !facts.is_file() {
            return Ok(blocking);
        }
        let mut bytes = Vec::new();
        let read = opened.take(PID_FILE_MOST).read_to_end(&mut bytes);
        read.map_err(failed)?;
        let file = PidFile::parse(&String::from_utf8_lossy(&bytes));
        let readable = facts.uid() == run_as.uid() && facts.mode() & 0o400 != 0;
        Ok(Self {
            passable: readable && file.is_some(),
            file,
        })
    }

    /// The state of a server without processes. `reused` says that the pid in the file now
    /// belongs to another process of the server's user, which PostgreSQL would take for a
    /// postmaster.
    pub(crate) fn found(self, reused: bool) -> Found {
        match self.passable && !reused {
            true => Found::Stopped,
            false => Found::Blocked(self.file),
        }
    }
}

/// Relation of a process to a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Process {
    /// There is no such process.
    Gone,
    /// The process is the postmaster of that directory.
    Postmaster,
    /// The process works in that directory, for example a backend whose postmaster was killed.
    Inside,
    /// An unrelated process: the pid was reused, or the process has ended and was not reaped
    /// yet.
    Stranger {
        /// User id of the process.
        uid: u32,
    },
}

/// Finds the relation of the process `pid` to the directory `data`.
pub(crate) fn of_pid(pid: i32, data: &Path) -> Process {
    let directory = PathBuf::from(format!("{PROCESSES}/{pid}"));
    let Ok(facts) = fs::metadata(&directory) else {
        return Process::Gone;
    };
    let command = fs::read(directory.join("cmdline")).unwrap_or_default();
    let inside = fs::read_link(directory.join("cwd")).is_ok_and(|cwd| same(&cwd, data));
    if serves(&command, data) {
        return Process::Postmaster;
    }
    if inside {
        return Process::Inside;
    }
    Process::Stranger { uid: facts.uid() }
}

/// The processes of the PostgreSQL server on `data` that run as `uid`. Other programs with that
/// working directory, such as a shell, are not included.
///
/// # Errors
/// When the processes of this machine cannot be listed. The caller must not conclude then that
/// the server has no processes.
pub(crate) fn of_server(data: &Path, uid: u32) -> Result<Vec<i32>> {
    let failed = |error| failure::file(error, Path::new(PROCESSES));
    let mut pids = Vec::new();
    for entry in fs::read_dir(PROCESSES).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        pids.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    pids.retain(|pid| is_of_server(*pid, data, uid));
    Ok(pids)
}

/// The postmaster among the processes of a server. A backend that was just forked still has the
/// command line of the postmaster, but the postmaster is its parent.
pub(crate) fn postmaster_among(pids: &[i32], data: &Path) -> Option<i32> {
    let serving = pids
        .iter()
        .filter(|pid| of_pid(**pid, data) == Process::Postmaster);
    let parents: HashMap<i32, Option<i32>> = serving.map(|pid| (*pid, parent(*pid))).collect();
    let is_forked =
        |parent: &Option<i32>| parent.is_some_and(|parent| parents.contains_key(&parent));
    let found = parents.iter().find(|(_, parent)| !is_forked(parent));
    found.map(|(pid, _)| *pid)
}

/// Parent of a process: the second field after the name in parentheses (proc(5)).
pub(super) fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("{PROCESSES}/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a process belongs to the PostgreSQL server on `data`, and runs as `uid`.
pub(crate) fn is_of_server(pid: i32, data: &Path, uid: u32) -> bool {
    let directory = PathBuf::from(format!("{PROCESSES}/{pid}"));
    let owned = fs::metadata(&directory).is_ok_and(|facts| facts.uid() == uid);
    let command = fs::read(directory.join("cmdline")).unwrap_or_default();
    owned
        && calls_itself_postgres(&command)
        && matches!(of_pid(pid, data), Process::Inside | Process::Postmaster)
}

/// Whether a command line is that of a postmaster or of its child processes, which call
/// themselves for example "postgres: checkpointer".
fn calls_itself_postgres(command: &[u8]) -> bool {
    let first = command.split(|byte| *byte == 0).next().unwrap_or_default();
    let first = std::str::from_utf8(first).unwrap_or_default();
    first.starts_with("postgres: ")
        || Path::new(first)
            .file_name()
            .is_some_and(|name| name == "postgres")
}

/// Whether a command line, with arguments ended by NUL, is that of `postgres -D data`.
fn serves(command: &[u8], data: &Path) -> bool {
    let mut arguments = command
        .split(|byte| *byte == 0)
        .map(|argument| Path::new(std::str::from_utf8(argument).unwrap_or_default()));
    // Child processes overwrite their command line: "postgres: checkpointer".
    let program = arguments.next().and_then(Path::file_name);
    let postgres = program.is_some_and(|name| name == "postgres" || name == "postmaster");
    postgres
        && arguments
            .by_ref()
            .any(|argument| argument == Path::new("-D"))
        && arguments.next().is_some_and(|given| same(given, data))
}

/// Whether two paths refer to the same file or directory.
pub(crate) fn same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Whether any process is attached to a System V shared memory segment, given by key and id.
pub(crate) fn attached(memory: (u64, u64)) -> bool {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    table.lines().any(|line| in_use(line, memory))
}

/// Parses a line of `/proc/sysvipc/shm` (proc(5)): key, shmid, perms, size, cpid, lpid, nattch
/// and more. The key is printed as a signed number.
fn in_use(line: &str, (key, id): (u64, u64)) -> bool {
    let mut fields = line.split_whitespace();
    let mut number = |skip| fields.nth(skip).and_then(|field| field.parse::<i64>().ok());
    let (Some(its_key), Some(its_id), Some(attached)) = (number(0), number(0), number(4)) else {
        return false;
    };
    let low = |number: i64| u64::from_ne_bytes(number.to_ne_bytes()) & u64::from(u32::MAX);
    low(its_key) == key & u64::from(u32::MAX) && low(its_id) == id && attached > 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "25895\n/var/lib/x/data\n1795236321\n7777\n/tmp\nlocalhost\n  \
                        9994243        29\nready   \n";

    #[test]
    fn reads_postmaster_pid() {
        let file = PidFile::parse(FILE).unwrap();
        let expected = PidFile {
            pid: 25895,
            started: Some(1_795_236_321),
            port: Some(7777),
            socket_directory: Some("/tmp".into()),
            listens_on: "localhost".into(),
            shared_memory: Some((9_994_243, 29)),
            ready: true,
        };
        assert_eq!(file, expected);
        let starting = PidFile::parse("-7\n/data\n12\n7777\n\n").unwrap();
        assert_eq!((starting.pid, starting.ready), (7, false));
        assert_eq!(starting.shared_memory, None);
        for cut in ["7", "7\n", "7\n/da", "-7\n/data\n", "7\n/data\nx\n"] {
            assert_eq!(PidFile::parse(cut), Some(PidFile::of(7)), "{cut:?}");
        }
        let beyond = "99999999999\n/data\n12\n";
        for bad in ["", "x", "0\n/data\n12\n", "\n\n\n", beyond] {
            assert_eq!(PidFile::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn knows_a_postmaster_by_its_command_line() {
        let data = Path::new("/srv/a/data");
        assert!(serves(b"/usr/bin/postgres\0-D\0/srv/a/data\0", data));
        assert!(serves(
            b"postgres\0-c\0x=1\0-D\0/srv/a/data\0-k\0/tmp\0",
            data
        ));
        assert!(!serves(b"/usr/bin/postgres\0-D\0/srv/b/data\0", data));
        assert!(!serves(b"postgres: checkpointer \0\0\0", data));
        assert!(!serves(b"vi\0-D\0/srv/a/data\0", data));
        assert!(!serves(b"", data));
    }

    #[test]
    fn a_shell_in_the_data_directory_is_no_server() {
        assert!(calls_itself_postgres(b"postgres: checkpointer \0\0"));
        assert!(calls_itself_postgres(b"/usr/bin/postgres\0-D\0/x\0"));
        for other in [&b"-bash\0"[..], b"tar\0cf\0postgres\0", b"psql\0", b""] {
            assert!(!calls_itself_postgres(other));
        }
        let here = std::env::current_dir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let ourselves = std::process::id().cast_signed();
        assert!(!of_server(&here, uid).unwrap().contains(&ourselves));
    }

    #[test]
    fn knows_attached_memory() {
        let line = "   9994243         29   600          56 25895 25895      7   104   106";
        assert!(in_use(line, (9_994_243, 29)));
        assert!(!in_use(line, (9_994_243, 30)));
        assert!(!in_use(
            &line.replace("     7 ", "     0 "),
            (9_994_243, 29)
        ));
        assert!(in_use("-1 29 600 56 1 1 1", (u64::from(u32::MAX), 29)));
        assert!(!in_use("key shmid perms size", (0, 0)));
    }

    #[test]
    fn tells_processes_apart() {
        let pid = std::process::id().cast_signed();
        let here = std::env::current_dir().unwrap();
        assert_eq!(of_pid(pid, &here), Process::Inside);
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(
            of_pid(pid, Path::new("/nowhere")),
            Process::Stranger { uid }
        );
        assert_eq!(of_pid(i32::MAX, &here), Process::Gone);
    }

    #[test]
    fn knows_parents() {
        let pid = std::process::id().cast_signed();
        let expected = std::os::unix::process::parent_id().cast_signed();
        assert_eq!(parent(pid), Some(expected));
        assert_eq!(postmaster_among(&[pid], Path::new("/")), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "[-0-9a-z \n/]{0,80}") {
            let _ = PidFile::parse(&text);
            let _ = in_use(&text, (1, 1));
            let _ = serves(text.as_bytes(), Path::new("/"));
        }
    }
}
