//! Which process a data directory belongs to.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What `postmaster.pid` says (PostgreSQL's `src/include/utils/pidfile.h`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PidFile {
    /// Process id of the postmaster.
    pub(crate) pid: i32,
    /// When it started, in seconds since 1970.
    pub(crate) started: i64,
    /// Key and id of its shared memory, once it has some.
    pub(crate) shared_memory: Option<(u64, u64)>,
    /// Whether it takes connections.
    pub(crate) ready: bool,
}

impl PidFile {
    /// Reads the file; none if it is not one, or was not written to the end yet.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let line = |index: usize| text.lines().nth(index).map(str::trim);
        // A standalone backend writes its pid negated.
        let pid = line(0)?.parse::<i32>().ok()?.checked_abs()?;
        let shared_memory = line(6).and_then(|both| {
            let (key, id) = both.split_once(char::is_whitespace)?;
            Some((key.parse().ok()?, id.trim().parse().ok()?))
        });
        Some(Self {
            pid,
            started: line(2)?.parse().ok()?,
            shared_memory,
            ready: matches!(line(7), Some("ready" | "standby")),
        })
        .filter(|file| file.pid > 0)
    }
}

/// What a process has to do with a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Process {
    /// There is no such process.
    Gone,
    /// It is `postgres` on that directory.
    Postmaster,
    /// It works in that directory, such as a backend whose postmaster was killed.
    Inside,
    /// It is something else, of that user: the pid was reused, or nobody has taken
    /// note of its end yet.
    Stranger {
        /// Its user.
        uid: u32,
    },
}

/// What the process `pid` has to do with the directory `data`.
pub(crate) fn process(pid: i32, data: &Path) -> Process {
    let directory = PathBuf::from(format!("/proc/{pid}"));
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

/// The processes of a PostgreSQL server on the directory `data`. Other programs that
/// have it as working directory, such as a shell, are not among them.
pub(crate) fn of_server(data: &Path, uid: u32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_of_server(*pid, data, uid)).collect()
}

/// Whether a process is one of a PostgreSQL server on the directory `data`.
pub(crate) fn is_of_server(pid: i32, data: &Path, uid: u32) -> bool {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let owned = fs::metadata(&directory).is_ok_and(|facts| facts.uid() == uid);
    let command = fs::read(directory.join("cmdline")).unwrap_or_default();
    owned
        && calls_itself_postgres(&command)
        && matches!(process(pid, data), Process::Inside | Process::Postmaster)
}

/// Whether a command line is that of a postmaster or of one of its processes, such as
/// "postgres: checkpointer".
fn calls_itself_postgres(command: &[u8]) -> bool {
    let first = command.split(|byte| *byte == 0).next().unwrap_or_default();
    let first = std::str::from_utf8(first).unwrap_or_default();
    first.starts_with("postgres: ")
        || Path::new(first)
            .file_name()
            .is_some_and(|name| name == "postgres")
}

/// Whether a command line, arguments ended by NUL, is that of `postgres -D data`.
fn serves(command: &[u8], data: &Path) -> bool {
    let mut arguments = command
        .split(|byte| *byte == 0)
        .map(|argument| Path::new(std::str::from_utf8(argument).unwrap_or_default()));
    // Its own processes overwrite theirs: "postgres: checkpointer".
    let program = arguments.next().and_then(Path::file_name);
    let postgres = program.is_some_and(|name| name == "postgres" || name == "postmaster");
    postgres
        && arguments
            .by_ref()
            .any(|argument| argument == Path::new("-D"))
        && arguments.next().is_some_and(|given| same(given, data))
}

/// Whether two paths lead to the same place.
pub(crate) fn same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Whether a process is attached to that System V shared memory.
pub(crate) fn attached(memory: (u64, u64)) -> bool {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    table.lines().any(|line| in_use(line, memory))
}

/// Reads a line of `/proc/sysvipc/shm` (proc(5)): key, shmid, perms, size, cpid,
/// lpid, nattch and more. The key is signed there.
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
            started: 1_795_236_321,
            shared_memory: Some((9_994_243, 29)),
            ready: true,
        };
        assert_eq!(file, expected);
        let starting = PidFile::parse("-7\n/data\n12\n7777\n\n").unwrap();
        assert_eq!((starting.pid, starting.ready), (7, false));
        assert_eq!(starting.shared_memory, None);
        for bad in ["", "x", "1", "1\n/data\n", "0\n/data\n12\n", "\n\n\n"] {
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
        assert!(!of_server(&here, uid).contains(&ourselves));
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
        assert_eq!(process(pid, &here), Process::Inside);
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(
            process(pid, Path::new("/nowhere")),
            Process::Stranger { uid }
        );
        assert_eq!(process(i32::MAX, &here), Process::Gone);
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
