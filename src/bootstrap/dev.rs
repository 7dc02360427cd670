//! The directories of `howdah dev`, which are deleted when the process ends.
//!
//! They lie in one directory per user, have random names, and each is locked by its process. The
//! kernel releases the lock however the process ends. The next `howdah dev` or `howdah serve`
//! deletes the directories that nobody has locked. Directories with other names or contents are
//! not touched.

use std::{
    env,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{DataDir, run_as};
use crate::{
    config::{self, Config, ServeArguments, Surroundings},
    domain::{
        Error, Reason, Result,
        random::{Random, SystemSource},
    },
    providers::local::throwaway,
};

/// Contents of a directory: the data directory, and the directory of sockets, with a short name.
const DATA: &str = "data";
const SOCKETS: &str = "s";

/// Most bytes of the path of the user's directory. With 11 more bytes, the path of the sockets
/// has at most 48, which is the limit of `local.run_directory`.
const LONGEST_BASE: usize = 37;

/// How often to try again when another process has just removed the user's directory as empty.
const TRIES: u32 = 10;

/// Variables of the environment that also apply to `howdah dev`: which PostgreSQL to use, as
/// which user, and what to log.
const TAKEN: &[&str] = &[
    "HOME",
    "HOWDAH_LOCAL_ENGINE_DIRECTORIES",
    "HOWDAH_LOCAL_PORTS",
    "HOWDAH_LOCAL_RUN_AS",
    "HOWDAH_LOCAL_SYSTEM_ENGINES",
    "HOWDAH_LOG_FILTER",
    "HOWDAH_LOG_FORMAT",
];

/// A directory that this process has locked.
#[derive(Debug)]
pub struct Dev {
    path: PathBuf,
    _lock: File,
}

impl Dev {
    /// Creates a directory and locks it.
    ///
    /// # Errors
    /// CONFIG_INVALID when the user's directory belongs to somebody else; DATA_DIR_UNWRITABLE.
    pub async fn make() -> Result<Self> {
        let base = base();
        let made = tokio::task::spawn_blocking(move || {
            let made = (1..TRIES).find_map(|_| make(&base).transpose());
            made.unwrap_or_else(|| Err(unusable(&base, &io::ErrorKind::NotFound.into())))
        });
        let made = made.await;
        let made = made.map_err(|error| Error::internal("dev").with_source(error))??;
        if let Err(error) = made.config() {
            // The directory is still empty.
            let _ = fs::remove_dir(&made.path);
            let _ = made.path.parent().map(fs::remove_dir);
            return Err(error);
        }
        Ok(made)
    }

    /// The configuration of a process that serves from it.
    ///
    /// # Errors
    /// CONFIG_INVALID.
    pub fn config(&self) -> Result<Config> {
        let mut around = Surroundings::of_process();
        around
            .variables
            .retain(|name, _| TAKEN.contains(&name.as_str()));
        let data = self.path.join(DATA).display().to_string();
        let sockets = self.path.join(SOCKETS).display().to_string();
        for (name, value) in [
            ("HOWDAH_DATA_DIR", data.as_str()),
            ("HOWDAH_LOCAL_RUN_DIRECTORY", sockets.as_str()),
            ("HOWDAH_LISTEN", "127.0.0.1:0"),
            ("HOWDAH_ADMIN_LISTEN", "127.0.0.1:0"),
        ] {
            around.variables.insert(name.to_owned(), value.to_owned());
        }
        let filter = around.variables.entry("HOWDAH_LOG_FILTER".to_owned());
        filter.or_insert_with(|| "error".to_owned());
        let loaded = config::load(&ServeArguments::default(), &around);
        loaded
            .map(|loaded| loaded.config)
            .map_err(|problems| config::error(&problems))
    }

    /// Ends everything that runs in it, and deletes it.
    ///
    /// # Errors
    /// Errors of [`throwaway`].
    pub async fn remove(self) -> Result<()> {
        remove(&self.path, &self.config()?).await?;
        // Fails while the user's directory contains others.
        let _ = fs::remove_dir(base());
        Ok(())
    }
}

/// Deletes the directories of dead processes, with the servers that still run in them. What
/// cannot be deleted now is tried again by the next process.
pub(super) async fn sweep(config: &Config) {
    let base = base();
    let left = tokio::task::spawn_blocking(move || left(&base)).await;
    for abandoned in left.unwrap_or_default() {
        match remove(&abandoned.path, config).await {
            Ok(()) => tracing::info!(
                path = %abandoned.path.display(),
                "what a killed `howdah dev` left was deleted"
            ),
            Err(error) => tracing::warn!(
                %error,
                path = %abandoned.path.display(),
                "what a killed `howdah dev` left cannot be deleted"
            ),
        }
    }
}

async fn remove(path: &Path, config: &Config) -> Result<()> {
    let user = run_as(config);
    throwaway::end_servers(&path.join(DATA), user.as_deref()).await?;
    throwaway::delete(path).await
}

/// The user's directory: in the directory for temporary files, or in `/tmp` if the paths of
/// sockets would be too long there.
fn base() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    let name = format!("howdah-dev-{user}");
    let base = env::temp_dir().join(&name);
    match base.as_os_str().len() <= LONGEST_BASE {
        true => base,
        false => Path::new("/tmp").join(name),
    }
}

/// Creates a directory in `base`; none if another process has removed `base` in the meantime.
fn make(base: &Path) -> Result<Option<Dev>> {
    let failed = |error| unusable(base, &error);
    match directory(base) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    if !base.exists() {
        return Ok(None);
    }
    if !is_ours(base) {
        let message = format!(
            "{} is not a directory of the user that howdah runs as: remove it, or set TMPDIR",
            base.display()
        );
        return Err(Error::new(Reason::ConfigInvalid, message));
    }
    // This lock is held from the creation of a directory until that is locked itself. Processes
    // that search for unlocked directories hold it too.
    let gate = match File::open(base) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    gate.lock().map_err(failed)?;
    let mut random = [0; 4];
    SystemSource::default().fill(&mut random)?;
    let path = base.join(format!("{:08x}", u32::from_ne_bytes(random)));
    match directory(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        made => made.map_err(failed)?,
    }
    let lock = File::open(&path).map_err(failed)?;
    lock.try_lock().map_err(|error| failed(error.into()))?;
    Ok(Some(Dev { path, _lock: lock }))
}

/// Locks and returns the directories that no process has locked.
fn left(base: &Path) -> Vec<Dev> {
    if !is_ours(base) {
        return Vec::new();
    }
    // Waits for a process that has created a directory and not locked it yet.
    let Ok(gate) = File::open(base) else {
        return Vec::new();
    };
    let (Ok(()), Ok(entries)) = (gate.lock(), fs::read_dir(base)) else {
        return Vec::new();
    };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter_map(take).collect()
}

/// Locks a directory if `howdah dev` has created it and no process has locked it.
fn take(path: PathBuf) -> Option<Dev> {
    let name = path.file_name()?.to_str()?;
    let is_name = name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_name || !is_ours(&path) {
        return None;
    }
    let lock = File::open(&path).ok()?;
    lock.try_lock().ok()?;
    let mut entries = fs::read_dir(&path).ok()?.flatten();
    let known = entries.all(|entry| [DATA, SOCKETS].iter().any(|it| entry.file_name() == *it));
    known.then_some(Dev { path, _lock: lock })
}

/// Creates a directory. If this process is root the servers run as another user, who must be
/// able to pass through.
fn directory(path: &Path) -> io::Result<()> {
    let mode = DataDir::mode();
    DirBuilder::new().mode(mode).create(path)?;
    // The umask was applied to the mode above.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Whether this is a directory, not a link, that belongs to this user and that nobody else can
/// write to.
fn is_ours(path: &Path) -> bool {
    let facts = fs::symlink_metadata(path);
    facts.is_ok_and(|facts| {
        let own = facts.uid() == rustix::process::geteuid().as_raw();
        facts.is_dir() && own && facts.mode() & 0o022 == 0
    })
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    let message = format!("cannot write {}: {error}", path.display());
    Error::new(Reason::DataDirUnwritable, message)
}
