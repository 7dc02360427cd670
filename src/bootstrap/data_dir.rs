//! The data directory: locked by the process that serves from it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::domain::{Error, Reason, Result, random::Random};

/// File that the process that uses the directory holds locked.
pub(super) const LOCK: &str = "lock";

/// A data directory that this process has locked. The kernel gives the lock up when
/// the process ends, however it ends.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
    /// The directory itself: its lock holds where somebody removed the file `lock`.
    _directory: File,
}

impl DataDir {
    /// Makes the directory if it is not there, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(Self::mode())
            .create(path);
        made.map_err(|error| unwritable(path, error))?;
        let failed = |error| unwritable(&path.join(LOCK), error);
        let lock = private(path, LOCK).map_err(failed)?;
        let directory = File::open(path).map_err(|error| unwritable(path, error))?;
        match (lock.try_lock(), directory.try_lock()) {
            (Err(TryLockError::WouldBlock), _) | (_, Err(TryLockError::WouldBlock)) => {
                let message = format!("another process uses {}", path.display());
                return Err(Error::new(Reason::DataDirInUse, message));
            }
            (Err(TryLockError::Error(error)), _) => return Err(failed(error)),
            // Some network file systems lock files alone.
            (Ok(()), _) => {}
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
            _directory: directory,
        })
    }

    /// Mode of a directory that servers lie in. Where we are root they run as another user,
    /// who must be able to pass through.
    pub(super) fn mode() -> u32 {
        match rustix::process::geteuid().is_root() {
            true => 0o711,
            false => 0o700,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Unique id of this process's workers: the same after a restart, so that what a
    /// dead process held here can be taken back at once.
    ///
    /// One that was lost or damaged is made anew. What was held here is then taken
    /// back when its leases have run out, as from any other process.
    pub(super) fn worker(&self, random: &dyn Random) -> Result<Uuid> {
        const NAME: &str = "worker-id";
        let text = read(&self.path, NAME)?;
        let known = text.as_deref().map(|text| Uuid::try_parse(text.trim()));
        match known {
            Some(Ok(worker)) => return Ok(worker),
            Some(Err(_)) => tracing::warn!(
                file = %self.path.join(NAME).display(),
                "the file is damaged, it is made anew"
            ),
            None => {}
        }
        let made = random.uuid()?;
        self.replace(NAME, &made.to_string())?;
        Ok(made)
    }

    /// Writes a small private file so that it is there whole or not at all.
    pub(super) fn replace(&self, name: &str, content: &str) -> Result<()> {
        let unfinished = format!("{name}.new");
        let write = || -> std::io::Result<()> {
            let mut file = private(&self.path, &unfinished)?;
            file.set_len(0)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
            fs::rename(self.path.join(&unfinished), self.path.join(name))?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| unwritable(&self.path.join(name), error))
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.path.join(name))
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, name, "cannot remove a file");
        }
    }
}

/// The content of a small file in a data directory, if it is there. What is no UTF-8 in
/// it is replaced by U+FFFD, so that it is taken for damaged and not for absent.
pub(super) fn read(directory: &Path, name: &str) -> Result<Option<String>> {
    let path = directory.join(name);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let remedy = match error.kind() {
                ErrorKind::IsADirectory => "move that away",
                _ => "correct its owner and mode",
            };
            let message = format!(
                "{} cannot be read ({error}): {remedy}, or put it back from a backup",
                path.display(),
            );
            Err(Error::new(Reason::DataDirDamaged, message).with_source(error))
        }
    }
}

fn private(directory: &Path, name: &str) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(name))
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    let message = format!("cannot write {}: {error}", path.display());
    Error::new(Reason::DataDirUnwritable, message).with_source(error)
}
