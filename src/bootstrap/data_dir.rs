//! The data directory, which the process that serves from it locks.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::domain::{Error, Reason, Result, random::Random};

/// File that is locked by the process that uses the directory.
pub(super) const LOCK: &str = "lock";

/// A data directory that this process has locked. The kernel releases the lock when the process
/// ends, even by a crash.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
    /// A second lock, on the directory itself. It still holds if somebody removes the file
    /// `lock`.
    _directory: File,
}

impl DataDir {
    /// Creates the directory if it is missing, and locks it.
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
            // Some network file systems can lock files only.
            (Ok(()), _) => {}
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
            _directory: directory,
        })
    }

    /// Mode of a directory that contains servers. If this process is root the servers run as
    /// another user, who must be able to pass through.
    pub(super) fn mode() -> u32 {
        match rustix::process::geteuid().is_root() {
            true => 0o711,
            false => 0o700,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Unique id of the workers of this process. It stays the same after a restart, so that the
    /// new process can take over at once what the dead one held.
    ///
    /// If the id was lost or damaged a new one is created. What the dead process held can then
    /// be taken only when its leases expire, as from any other process.
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

    /// Replaces a small private file by a rename, so that a crash leaves the old or the new
    /// contents.
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

    /// Removes a file; succeeds if it is missing.
    pub(super) fn remove(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.path.join(name))
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, name, "cannot remove a file");
        }
    }
}

/// Reads a small file in a data directory; none if it is missing. Bytes that are not UTF-8
/// become U+FFFD, so that such a file counts as damaged and not as missing.
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
