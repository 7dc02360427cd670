//! Lock files: across processes, at most one effect at a time works on a server.
//!
//! A lock is a `flock` on a file. The kernel releases it when the last copy of the open file is
//! closed, so a crashed process leaves no lock behind, and a child process can hold it on.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use rustix::{fs::FlockOperation, io::Errno};
use tokio::time::Instant;

use super::{directory::blocking, failure, holders};
use crate::domain::{Error, Reason, Result};

/// How often to try a lock that another process holds.
const PAUSE: Duration = Duration::from_millis(20);

/// A held lock. It is released when the last copy is dropped and all programs that inherited it
/// have ended.
#[derive(Clone, Debug)]
pub(crate) struct Lock {
    file: Arc<File>,
    path: PathBuf,
}

impl Lock {
    /// Waits until the lock is granted.
    ///
    /// # Errors
    /// LOCK_TIMEOUT when another process holds the lock for longer than `limit`. The message
    /// names that process.
    pub(crate) async fn acquire(path: PathBuf, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(file) = attempt(&path).map_err(|error| failure::file(error, &path))? {
                let file = Arc::new(file);
                return Ok(Self { file, path });
            }
            if Instant::now() >= deadline {
                let context = path.display().to_string();
                let message = blocking(move || Ok(holders::in_vain(&path))).await?;
                return Err(Error::new(Reason::LockTimeout, message).with_context(context));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A copy of the lock as the standard input of a program. The program then holds the lock
    /// too, even after a crash of this process, so nobody works beside it.
    pub(crate) fn stdin(&self) -> Result<Stdio> {
        let copy = self.file.try_clone();
        copy.map(Stdio::from)
            .map_err(|error| failure::file(error, &self.path))
    }

    /// Path of the lock file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the lock file. A process that waits for the lock notices that and creates a new
    /// file.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failure::file(error, &self.path))
            }
            _ => Ok(()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// Opens and locks the file. None if another process holds the lock, or has removed or replaced
/// the file between the open and the lock: a lock on a removed file excludes nobody.
fn attempt(path: &Path) -> io::Result<Option<File>> {
    let file = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Another process has removed the directory.
            let parent = path.parent().unwrap_or(path);
            fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(parent)?;
            open(path)?
        }
        opened => opened?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let held = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(present) if (present.dev(), present.ino()) == (held.dev(), held.ino()) => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(60);

    #[tokio::test]
    async fn a_directory_that_is_gone_is_made_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("locks/one");
        let lock = Lock::acquire(path.clone(), SHORT).await.unwrap();
        assert!(Lock::acquire(path.clone(), SHORT).await.is_err());
        drop(lock);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_child_keeps_the_lock_until_it_ends() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("lock");
        let lock = Lock::acquire(path.clone(), SHORT).await.unwrap();
        let mut child = tokio::process::Command::new("sleep")
            .arg("60")
            .stdin(lock.stdin().unwrap())
            .spawn()
            .unwrap();
        drop(lock);
        let error = Lock::acquire(path.clone(), SHORT).await.unwrap_err();
        assert_eq!(error.reason(), Reason::LockTimeout);
        child.kill().await.unwrap();
        Lock::acquire(path, Duration::from_secs(10)).await.unwrap();
    }

    #[tokio::test]
    async fn who_waits_for_a_removed_lock_gets_the_new_one() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("lock");
        let lock = Lock::acquire(path.clone(), SHORT).await.unwrap();
        lock.remove().unwrap();
        let next = Lock::acquire(path.clone(), SHORT).await.unwrap();
        drop(lock);
        assert!(Lock::acquire(path.clone(), SHORT).await.is_err());
        next.remove().unwrap();
        assert!(!path.exists());
    }
}
