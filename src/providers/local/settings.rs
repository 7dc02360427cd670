//! Settings of the local provider.

use std::{
    env,
    fs::{self, DirBuilder},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;
use rustix::process::geteuid;

use super::{
    directory::{Directory, PRIVATE},
    failure,
    user::RunAs,
};
use crate::domain::{
    Error, Reason, Result,
    clock::{Clock, SystemClock},
};

/// Longest path of a Unix socket in bytes (`sun_path` without its NUL, unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// What comes after the run directory: a server's directory and its socket.
const SOCKET_SUFFIX: usize = "/0123456789abcdef0123456789abcdef/.s.PGSQL.65535".len();

/// Files that servers speak TLS with.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// PEM file of the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
}

/// Settings of the local provider.
#[derive(Clone)]
pub struct Settings {
    /// Where everything lies (`local.root`). Processes with the same root are one
    /// host.
    pub root: PathBuf,
    /// Where the Unix sockets lie; short. See [`default_run_directory`].
    pub run_directory: PathBuf,
    /// Directories with PostgreSQL's programs, looked at before the usual ones.
    pub engine_directories: Vec<PathBuf>,
    /// Whether the usual ones are looked at.
    pub system_engines: bool,
    /// User that servers run as; none: `postgres` if this process is root's, else
    /// its own user.
    pub run_as: Option<String>,
    /// Addresses that servers listen on; none: `127.0.0.1`.
    pub listen_addresses: Vec<IpAddr>,
    /// Host name or address that clients are told; none: the first of
    /// `listen_addresses`.
    pub advertise_host: Option<String>,
    /// What servers speak TLS with; none: they do not.
    pub tls: Option<TlsFiles>,
    /// How long the data of removed servers is kept.
    pub trash_retention: Duration,
    /// Longest wait for a server to come up, crash recovery included.
    pub start_timeout: Duration,
    /// Longest wait for a server to go down.
    pub stop_timeout: Duration,
    /// Longest wait for another process that works on the same server, before it is waited
    /// for without a worker.
    pub lock_timeout: Duration,
    /// The present time, for the names in the trash.
    pub clock: Arc<dyn Clock>,
}

impl Settings {
    /// The defaults, for everything under `root`.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            run_directory: default_run_directory(&root),
            root,
            engine_directories: Vec::new(),
            system_engines: true,
            run_as: None,
            listen_addresses: Vec::new(),
            advertise_host: None,
            tls: None,
            trash_retention: Duration::from_secs(7 * 24 * 60 * 60),
            start_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(60),
            lock_timeout: Duration::from_secs(1),
            clock: Arc::new(SystemClock),
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("root", &self.root)
            .field("run_directory", &self.run_directory)
            .finish_non_exhaustive()
    }
}

/// A short directory for the sockets of what lies under `root`: in `/run/howdah` as
/// root, else in the user's runtime directory, else in `/tmp`.
#[must_use]
pub fn default_run_directory(root: &Path) -> PathBuf {
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let user = geteuid();
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let base = if user.is_root() {
        PathBuf::from("/run/howdah")
    } else if let Some(runtime) = runtime.filter(|dir| dir.is_absolute() && fits(dir)) {
        runtime.join("howdah")
    } else {
        temporary_base()
    };
    base.join(short(&root))
}

/// The directory in /tmp for sockets of this user.
pub(super) fn temporary_base() -> PathBuf {
    PathBuf::from(format!("/tmp/howdah-{}", geteuid().as_raw()))
}

/// A short name for a path.
pub(super) fn short(path: &Path) -> String {
    let hash = digest::digest(&digest::SHA256, path.as_os_str().as_encoded_bytes());
    hash.as_ref().iter().take(4).map(hex).collect()
}

fn hex(byte: &u8) -> String {
    format!("{byte:02x}")
}

fn fits(runtime: &Path) -> bool {
    let ours = "/howdah/01234567".len();
    runtime.as_os_str().len() + ours + SOCKET_SUFFIX <= MAX_SOCKET_PATH
}

/// Refuses a run directory with which the paths of sockets were too long.
pub(super) fn check_run_directory(directory: &Path) -> Result<()> {
    if directory.as_os_str().len() + SOCKET_SUFFIX <= MAX_SOCKET_PATH {
        return check_path(directory);
    }
    let most = MAX_SOCKET_PATH - SOCKET_SUFFIX;
    let message = format!(
        "the run directory {} is longer than {most} bytes: Unix sockets could not be made in it",
        directory.display()
    );
    Err(Error::new(Reason::ConfigInvalid, message).with_field("local.run_directory"))
}

/// Makes and opens the run directory: its last part belongs to the user that servers
/// run as, what is above it to us.
///
/// # Errors
/// CONFIG_INVALID when somebody else made it first.
pub(super) fn make_run_directory(directory: &Path, run_as: RunAs) -> Result<Directory> {
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
        return Err(Error::internal("the run directory has no place"));
    };
    let passable = match run_as {
        RunAs::Ourselves => PRIVATE,
        RunAs::Other { .. } => 0o711,
    };
    let made = DirBuilder::new()
        .recursive(true)
        .mode(passable)
        .create(parent);
    made.map_err(|error| failure::file(error, parent))?;
    // In /tmp anybody can be first.
    if !is_ours(parent) {
        let message = format!(
            "{} is not a directory of root or the user that howdah runs as",
            parent.display()
        );
        return Err(Error::new(Reason::ConfigInvalid, message).with_field("local.run_directory"));
    }
    let parent = Directory::open(parent)?;
    parent.make(name.to_str().unwrap_or_default(), PRIVATE, run_as)
}

/// Whether that is a directory of root or the user that howdah runs as, and no link.
pub(super) fn is_ours(directory: &Path) -> bool {
    fs::symlink_metadata(directory)
        .is_ok_and(|facts| facts.is_dir() && [0, geteuid().as_raw()].contains(&facts.uid()))
}

/// Refuses paths that are relative, or that `pg_ctl` could not hand to a shell or
/// `postgresql.conf` could not hold.
pub(super) fn check_path(path: &Path) -> Result<()> {
    let text = path.to_str().unwrap_or("\n");
    let unfit = |c: char| c.is_control() || matches!(c, '"' | '$' | '`' | '\\' | '\'' | ',');
    if path.is_absolute() && !text.contains(unfit) {
        return Ok(());
    }
    let message = format!(
        "{} cannot be used for servers: the path must be absolute, of text without quotes, \
         commas, `$`, `\\` and control characters",
        path.display()
    );
    Err(Error::new(Reason::ConfigInvalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_roots_never_share_a_run_directory() {
        let one = default_run_directory(Path::new("/a"));
        assert_ne!(one, default_run_directory(Path::new("/b")));
        assert_eq!(one, default_run_directory(Path::new("/a")));
        check_run_directory(&one).unwrap();
        let long = PathBuf::from(format!("/{}", "x".repeat(80)));
        assert_eq!(
            check_run_directory(&long).unwrap_err().reason(),
            Reason::ConfigInvalid
        );
    }

    #[test]
    fn paths_that_a_shell_would_change_are_refused() {
        for bad in ["a", "/a\"b", "/a$b", "/a`b", "/a'b", "/a\\b", "/a\nb"] {
            assert!(check_path(Path::new(bad)).is_err(), "{bad}");
        }
        check_path(Path::new("/var/lib/my howdah")).unwrap();
    }
}
