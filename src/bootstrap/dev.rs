//! The directories of `howdah dev`, which go with their process.
//!
//! Each lies in one directory of the user and is owned by the process that holds its file
//! `owner` locked. The kernel gives that lock up however the process ends: a directory whose
//! lock is free is swept by the next `howdah dev` or `howdah serve`.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
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

/// File that the process of a directory holds locked.
const OWNER: &str = "owner";

/// How often a directory is made in a place that another process removes as empty.
const TRIES: u32 = 10;

/// The settings of `serve` that hold for `howdah dev` too: which PostgreSQL there is, who it
/// runs as, and what is logged.
const TAKEN: &[&str] = &[
    "HOME",
    "HOWDAH_LOCAL_ENGINE_DIRECTORIES",
    "HOWDAH_LOCAL_PORTS",
    "HOWDAH_LOCAL_RUN_AS",
    "HOWDAH_LOCAL_SYSTEM_ENGINES",
    "HOWDAH_LOG_FILTER",
    "HOWDAH_LOG_FORMAT",
];

/// A directory of this process.
#[derive(Debug)]
pub struct Dev {
    path: PathBuf,
    _owner: File,
}

impl Dev {
    /// Makes a directory, and deletes those whose process is gone.
    ///
    /// # Errors
    /// CONFIG_INVALID when the place belongs to somebody else; DATA_DIR_UNWRITABLE.
    pub async fn make() -> Result<Self> {
        let base = base();
        let made = tokio::task::spawn_blocking(move || {
            let made = (1..TRIES).find_map(|_| make(&base).transpose());
            made.unwrap_or_else(|| Err(unusable(&base, &io::ErrorKind::NotFound.into())))
        });
        let made = made.await;
        let made = made.map_err(|error| Error::internal("dev").with_source(error))??;
        sweep(&made.config()?).await;
        Ok(made)
    }

    /// The settings of a process that serves in it.
    ///
    /// # Errors
    /// CONFIG_INVALID.
    pub fn config(&self) -> Result<Config> {
        let mut around = Surroundings::of_process();
        around
            .variables
            .retain(|name, _| TAKEN.contains(&name.as_str()));
        let data = self.path.join("data").display().to_string();
        // Short: sockets lie in it.
        let sockets = self.path.join("s").display().to_string();
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

    /// Ends what runs in it, and deletes it.
    ///
    /// # Errors
    /// Those of [`throwaway`].
    pub async fn remove(self) -> Result<()> {
        remove(&self.path, &self.config()?).await?;
        // It stays while there are others.
        let _ = fs::remove_dir(base());
        Ok(())
    }
}

/// Deletes the directories whose process is gone, with the servers that it left. What cannot
/// be deleted now is tried again by the next process.
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
    throwaway::end_servers(&path.join("data"), user.as_deref()).await?;
    throwaway::delete(path).await
}

/// In the directory for temporary files, where every user has one.
fn base() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    env::temp_dir().join(format!("howdah-dev-{user}"))
}

/// Makes a directory in `base`; none where that was removed meanwhile.
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
    // Held until the owner is known, and while others look for directories without one.
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
    let owner = file(&path, OWNER).map_err(failed)?;
    owner.try_lock().map_err(|error| failed(error.into()))?;
    Ok(Some(Dev {
        path,
        _owner: owner,
    }))
}

/// The directories that no process owns; they are owned by this one from now on.
fn left(base: &Path) -> Vec<Dev> {
    if !is_ours(base) {
        return Vec::new();
    }
    // Held by a process that makes one, whose owner is not known yet.
    let Ok(gate) = File::open(base) else {
        return Vec::new();
    };
    let (Ok(()), Ok(entries)) = (gate.lock(), fs::read_dir(base)) else {
        return Vec::new();
    };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter_map(take).collect()
}

/// Takes a directory over if no process owns it.
fn take(path: PathBuf) -> Option<Dev> {
    if !is_ours(&path) {
        return None;
    }
    let owner = file(&path, OWNER).ok()?;
    owner.try_lock().ok()?;
    Some(Dev {
        path,
        _owner: owner,
    })
}

/// Servers run as another user where we are root, and must be able to pass through.
fn directory(path: &Path) -> io::Result<()> {
    let mode = DataDir::mode();
    DirBuilder::new().mode(mode).create(path)?;
    // Whatever the umask left.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn file(directory: &Path, name: &str) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(name))
}

/// Whether it is a directory of this user and no link, in which nobody else writes.
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
