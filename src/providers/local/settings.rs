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

/// Path below the run directory: the server's directory and its socket.
const SOCKET_SUFFIX: usize = "/0123456789abcdef0123456789abcdef/.s.PGSQL.65535".len();

/// Files for TLS, used by all servers.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// PEM file of the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file of the private key.
    pub key: PathBuf,
}

/// Settings of the local provider.
#[derive(Clone)]
pub struct Settings {
    /// Directory of everything that the provider keeps (`local.root`). Processes with the same
    /// root are the same host.
    pub root: PathBuf,
    /// Directory of the Unix sockets. The path must be short. See [`default_run_directory`].
    pub run_directory: PathBuf,
    /// Directories with PostgreSQL's programs. They come before the usual directories.
    pub engine_directories: Vec<PathBuf>,
    /// Whether the usual directories are searched.
    pub system_engines: bool,
    /// User that servers run as. None means `postgres` if this process runs as root, otherwise
    /// the user of this process.
    pub run_as: Option<String>,
    /// Addresses that servers listen on. Empty means `127.0.0.1`.
    pub listen_addresses: Vec<IpAddr>,
    /// Host name or address that clients connect to. None means the first of `listen_addresses`.
    pub advertise_host: Option<String>,
    /// Certificate and key of the servers. None means no TLS.
    pub tls: Option<TlsFiles>,
    /// How long the trash keeps the data of removed servers.
    pub trash_retention: Duration,
    /// Longest wait for a server to start, including crash recovery.
    pub start_timeout: Duration,
    /// Longest wait for a server to stop.
    pub stop_timeout: Duration,
    /// How long a worker waits for the lock of a server. After that the operation goes on
    /// waiting without a worker.
    pub lock_timeout: Duration,
    /// Clock for the names of entries in the trash.
    pub clock: Arc<dyn Clock>,
}

impl Settings {
    /// The defaults, with everything below `root`.
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

/// A short directory for the sockets of the servers below `root`. It lies in `/run/howdah` for
/// root, otherwise in the user's runtime directory if that is short enough, otherwise in `/tmp`.
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

/// The directory in /tmp that holds this user's sockets.
pub(super) fn temporary_base() -> PathBuf {
    PathBuf::from(format!("/tmp/howdah-{}", geteuid().as_raw()))
}

/// A short name for a path: four bytes of its hash.
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

/// Refuses a run directory that would make the paths of sockets too long.
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

/// Makes and opens the run directory. Its last part belongs to the user that servers run as, the
/// directories above to Howdah's user.
///
/// # Errors
/// CONFIG_INVALID when another user owns the directory above.
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
    // In /tmp any user could have created the directory first.
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

/// Whether this is a directory, not a link, and belongs to root or to Howdah's user.
pub(super) fn is_ours(directory: &Path) -> bool {
    fs::symlink_metadata(directory)
        .is_ok_and(|facts| facts.is_dir() && [0, geteuid().as_raw()].contains(&facts.uid()))
}

/// Refuses relative paths, and paths with characters that would break the shell command of
/// `pg_ctl` or the quoting of `postgresql.conf`.
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
