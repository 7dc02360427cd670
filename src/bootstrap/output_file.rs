//! An output file that gets its name only when it is complete.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::domain::{Error, Reason, Result};

/// A file with the name `{path}.new`. If it is dropped before it is finished, it is removed.
#[derive(Debug)]
pub(super) struct OutputFile {
    file: File,
    path: PathBuf,
    unfinished: PathBuf,
    force: bool,
    finished: bool,
}

impl OutputFile {
    /// Creates the unfinished file, which only we can read. A file that a killed process has
    /// left is overwritten, unless a program of that process still writes to it: such a program
    /// shares the lock on the file.
    ///
    /// # Errors
    /// BACKUP_EXISTS when there is a file at `path` and `force` is not set; BACKUP_UNWRITABLE.
    pub(super) fn create(path: &Path, force: bool) -> Result<Self> {
        refuse_existing(path, force)?;
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        let file = locked(&unfinished)?;
        let emptied = file
            .set_permissions(Permissions::from_mode(0o600))
            .and_then(|()| file.set_len(0));
        emptied.map_err(|error| unwritable(&unfinished, error))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            unfinished,
            force,
            finished: false,
        })
    }

    /// A copy of the file handle, for a program to write to.
    pub(super) fn file(&self) -> Result<File> {
        let copy = self.file.try_clone();
        copy.map_err(|error| unwritable(&self.unfinished, error))
    }

    /// Syncs the file and renames it. Returns its length in bytes.
    pub(super) fn finish(mut self) -> Result<u64> {
        refuse_existing(&self.path, self.force)?;
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let named = || -> io::Result<u64> {
            self.file.sync_all()?;
            let length = self.file.metadata()?.len();
            fs::rename(&self.unfinished, &self.path)?;
            File::open(parent)?.sync_all()?;
            Ok(length)
        };
        let length = named().map_err(|error| unwritable(&self.path, error))?;
        self.finished = true;
        Ok(length)
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

fn locked(path: &Path) -> Result<File> {
    let failed = |error| unwritable(path, error);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let busy = || {
        let message = format!("another backup is being written to {}", path.display());
        Error::new(Reason::BackupUnwritable, message)
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(busy()),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // The process that held the lock may have renamed or removed the file in the meantime.
    let held = file.metadata().map_err(failed)?;
    match fs::symlink_metadata(path) {
        Ok(there) if (there.dev(), there.ino()) == (held.dev(), held.ino()) => Ok(file),
        _ => Err(busy()),
    }
}

fn refuse_existing(path: &Path, force: bool) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => {
            let message = format!("{} is a directory: name a file in it", path.display());
            Err(Error::new(Reason::BackupUnwritable, message))
        }
        Ok(_) if !force => {
            let message = format!("{} is there already: --force replaces it", path.display());
            Err(Error::new(Reason::BackupExists, message))
        }
        _ => Ok(()),
    }
}

fn unwritable(path: &Path, error: io::Error) -> Error {
    let (reason, what) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (Reason::DiskFull, "no space is left for".to_owned())
        }
        kind => (Reason::BackupUnwritable, format!("{kind}: cannot write")),
    };
    Error::new(reason, format!("{what} {}", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn reason<T: std::fmt::Debug>(done: Result<T>) -> Reason {
        done.unwrap_err().reason()
    }

    #[test]
    fn is_there_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("b");
        let names = || {
            let entries = fs::read_dir(place.path()).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name())
                .collect::<Vec<_>>()
        };
        drop(OutputFile::create(&path, false).unwrap());
        assert!(names().is_empty());

        // A file of a killed process that is longer, and that everyone can read.
        fs::write(place.path().join("b.new"), "what was left").unwrap();
        let output = OutputFile::create(&path, false).unwrap();
        assert_eq!(
            reason(OutputFile::create(&path, false)),
            Reason::BackupUnwritable
        );
        output.file().unwrap().write_all(b"whole").unwrap();
        assert_eq!(output.finish().unwrap(), 5);
        assert_eq!(names(), ["b"]);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

        assert_eq!(
            reason(OutputFile::create(&path, false)),
            Reason::BackupExists
        );
        OutputFile::create(&path, true).unwrap().finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn says_where_it_cannot_write() {
        let place = tempfile::tempdir().unwrap();
        let missing = place.path().join("no/b");
        assert_eq!(
            reason(OutputFile::create(&missing, false)),
            Reason::BackupUnwritable
        );
        assert_eq!(
            reason(OutputFile::create(place.path(), true)),
            Reason::BackupUnwritable
        );
    }

    #[test]
    fn a_file_that_came_meanwhile_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("b");
        let output = OutputFile::create(&path, false).unwrap();
        fs::write(&path, "another one's").unwrap();
        assert_eq!(reason(output.finish()), Reason::BackupExists);
        assert_eq!(fs::read(&path).unwrap(), b"another one's");
    }
}
