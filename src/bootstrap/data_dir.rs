//! The data directory: locked by the process that serves from it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use crate::domain::{Error, Reason, Result, random::Random};

/// A data directory that this process has locked. The kernel gives the lock up when
/// the process ends, however it ends.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is not there, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        // Servers run as another user and must be able to pass through.
        let mode = if rustix::process::geteuid().is_root() {
            0o711
        } else {
            0o700
        };
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|error| unwritable(path, error))?;
        let lock = private(path, "lock").map_err(|error| unwritable(path, error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            match error.kind() {
                ErrorKind::WouldBlock => Error::new(
                    Reason::DataDirInUse,
                    format!("another process serves from {}", path.display()),
                ),
                _ => unwritable(path, error.into()),
            }
        })?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Identity of this process's workers: the same after a restart, so that what a
    /// dead process held here can be taken back at once.
    pub(super) fn worker(&self, random: &dyn Random) -> Result<Uuid> {
        let text = self.keep("worker-id", || Ok(random.uuid()?.to_string()))?;
        Uuid::try_parse(text.trim())
            .map_err(|error| Error::internal("the file worker-id is damaged").with_source(error))
    }

    /// The content of a small private file, made with `content` if it is not there.
    pub(super) fn keep(
        &self,
        name: &str,
        content: impl FnOnce() -> Result<String>,
    ) -> Result<String> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => return Ok(text),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(unwritable(&path, error)),
        }
        let content = content()?;
        self.replace(name, &content)?;
        Ok(content)
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
        write().map_err(|error| unwritable(&self.path, error))
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
    let message = format!("cannot write {}: {}", path.display(), error.kind());
    Error::new(Reason::DataDirUnwritable, message).with_source(error)
}
