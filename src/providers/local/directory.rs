//! File operations inside one directory, through its handle.
//!
//! Howdah may run as root, while the files belong to the user that servers run as. A superuser
//! of a server can act as that user, and could plant a symbolic link. So nothing below the root
//! directory is opened through a symbolic link, and new files are created exclusively.

use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Uid},
    io::Errno,
};

use super::{failure, user::RunAs};
use crate::domain::{Error, Result};

/// Mode of the directories of servers.
pub(crate) const PRIVATE: u32 = 0o700;

/// Most bytes that are read of a file.
const MOST: u64 = 1024 * 1024;

/// Unit of `st_blocks` (stat(2)).
const BLOCK: u64 = 512;

/// Deepest nesting that [`Directory::usage`] descends into.
const DEPTH: u32 = 32;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    handle: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens a directory that only Howdah's own user can replace.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty());
        Ok(Self {
            handle: handle.map_err(|error| failure::file(error.into(), path))?,
            path: path.to_owned(),
        })
    }

    /// Opens a directory that other users may replace, inside a parent that only Howdah's own
    /// user can replace. None if it is missing.
    pub(crate) fn below(path: &Path) -> Result<Option<Self>> {
        let unnamed = || Error::internal("a directory has no place");
        let parent = path.parent().ok_or_else(unnamed)?;
        let name = path.file_name().and_then(|name| name.to_str());
        Self::open(parent)?.child(name.ok_or_else(unnamed)?)
    }

    /// Path of the directory, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a subdirectory; none if it is missing.
    pub(crate) fn child(&self, name: &str) -> Result<Option<Self>> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::openat(&self.handle, name, flags, Mode::empty()) {
            Ok(handle) => Ok(Some(Self {
                handle,
                path: self.path.join(name),
            })),
            Err(Errno::NOENT) => Ok(None),
            // A file or a symbolic link has this name.
            Err(Errno::NOTDIR) => Err(failure::in_the_way(&self.path.join(name))),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// Opens a subdirectory of a subdirectory; none if either is missing.
    pub(crate) fn grandchild(&self, name: &str, next: &str) -> Result<Option<Self>> {
        self.child(name)?
            .map_or(Ok(None), |child| child.child(next))
    }

    /// Creates a subdirectory if it is missing, and sets its mode and owner.
    pub(crate) fn make(&self, name: &str, mode: u32, owner: RunAs) -> Result<Self> {
        match rustix::fs::mkdirat(&self.handle, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.failed(name, error)),
        }
        let made = self.child(name)?;
        let made = made.ok_or_else(|| self.failed(name, Errno::NOENT))?;
        own(&made.handle, owner).map_err(|error| self.failed(name, error))?;
        // `mkdirat` has applied the umask to the mode.
        rustix::fs::fchmod(&made.handle, Mode::from_raw_mode(mode))
            .map_err(|error| self.failed(name, error))?;
        Ok(made)
    }

    /// Opens a file for reading; none if it is missing. `NONBLOCK` keeps a FIFO from blocking
    /// the open.
    pub(crate) fn file(&self, name: &str) -> Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match rustix::fs::openat(&self.handle, name, flags, Mode::empty()) {
            Ok(handle) => Ok(Some(File::from(handle))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// The first mebibyte of a file; none if it is missing.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file(name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(MOST)
            .read_to_end(&mut bytes)
            .map_err(|error| failure::file(error, &self.path.join(name)))?;
        Ok(Some(bytes))
    }

    /// Creates a file that must not exist yet, and syncs it.
    pub(crate) fn create(&self, name: &str, bytes: &[u8], mode: u32, owner: RunAs) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = rustix::fs::openat(&self.handle, name, flags, Mode::from_raw_mode(mode))
            .map(File::from)
            .map_err(|error| self.failed(name, error))?;
        let written = own(&file, owner)
            .map_err(io::Error::from)
            .and_then(|()| file.write_all(bytes))
            .and_then(|()| file.sync_all());
        if written.is_err() {
            self.unlink(name)?;
        }
        written.map_err(|error| failure::file(error, &self.path.join(name)))
    }

    /// Replaces a file: writes and syncs another one, then renames it. After a crash the file
    /// has the old or the new contents.
    pub(crate) fn replace(
        &self,
        name: &str,
        bytes: &[u8],
        mode: u32,
        owner: RunAs,
        before_rename: impl FnOnce(),
    ) -> Result<()> {
        let unfinished = format!("{name}.new");
        self.unlink(&unfinished)?;
        self.create(&unfinished, bytes, mode, owner)?;
        before_rename();
        rustix::fs::renameat(&self.handle, &unfinished, &self.handle, name)
            .map_err(|error| self.failed(name, error))?;
        self.sync()
    }

    /// Appends to an existing file, and syncs it.
    pub(crate) fn append(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = rustix::fs::openat(&self.handle, name, flags, Mode::empty())
            .map(File::from)
            .map_err(|error| self.failed(name, error))?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|error| failure::file(error, &self.path.join(name)))
    }

    /// Removes a file; succeeds if it is missing.
    pub(crate) fn unlink(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// Moves an entry. Fails if the new name exists.
    pub(crate) fn rename(&self, name: &str, to: &Self, new: &str) -> Result<()> {
        rustix::fs::renameat_with(&self.handle, name, &to.handle, new, RenameFlags::NOREPLACE)
            .map_err(|error| self.failed(name, error))
    }

    /// Like [`Directory::rename`]; returns `false` if there is no such entry.
    pub(crate) fn rename_present(&self, name: &str, to: &Self, new: &str) -> Result<bool> {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&self.handle, name, &to.handle, new, flags) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// Removes a directory with its contents; succeeds if it is missing. Retries for half a
    /// second, because a program that is about to end may still create files in it.
    pub(crate) fn remove_tree(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        for attempt in 0.. {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && attempt < 20 => {
                    std::thread::sleep(std::time::Duration::from_millis(25));
                }
                done => return done.map_err(|error| failure::file(error, &path)),
            }
        }
        Ok(())
    }

    /// Bytes that an entry and its contents take on the disk. Files that disappear meanwhile
    /// count as zero.
    pub(crate) fn usage(&self, name: &str) -> Result<u64> {
        let text = CString::new(name).map_err(|_| self.failed(name, Errno::INVAL))?;
        usage(self.handle.as_fd(), &text, DEPTH).map_err(|error| self.failed(name, error))
    }

    /// Names of the entries, without names that are not UTF-8.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let failed = |error| failure::file(error, &self.path);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        Ok(names)
    }

    /// Syncs the directory, so that created and renamed entries survive a crash.
    pub(crate) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.handle).map_err(|error| failure::file(error.into(), &self.path))
    }

    fn failed(&self, name: &str, error: Errno) -> Error {
        failure::file(error.into(), &self.path.join(name))
    }
}

/// Bytes that an entry takes on the disk, at most `depth` levels of directories below it.
fn usage(parent: BorrowedFd<'_>, name: &CStr, depth: u32) -> rustix::io::Result<u64> {
    let facts = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(0),
        found => found?,
    };
    let mut bytes = u64::try_from(facts.st_blocks)
        .unwrap_or(0)
        .saturating_mul(BLOCK);
    if !FileType::from_raw_mode(facts.st_mode).is_dir() || depth == 0 {
        return Ok(bytes);
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let handle = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(bytes),
        found => found?,
    };
    for entry in Dir::read_from(&handle)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            let below = usage(handle.as_fd(), entry.file_name(), depth - 1)?;
            bytes = bytes.saturating_add(below);
        }
    }
    Ok(bytes)
}

/// Gives a file to `owner`.
fn own(handle: impl std::os::fd::AsFd, owner: RunAs) -> rustix::io::Result<()> {
    let RunAs::Other { uid, gid } = owner else {
        return Ok(());
    };
    rustix::fs::fchown(handle, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Runs blocking file work outside the runtime's threads. The work continues when the future is
/// dropped, so a lock that guards it must be moved into the closure.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::internal("file work ended early").with_source(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_not_followed_and_replacing_is_whole() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(place.path()).unwrap();
        let owner = RunAs::Ourselves;
        directory.replace("a", b"one", 0o600, owner, || ()).unwrap();
        directory.replace("a", b"two", 0o600, owner, || ()).unwrap();
        assert_eq!(directory.read("a").unwrap().unwrap(), b"two");
        assert_eq!(directory.names().unwrap(), ["a"]);
        std::os::unix::fs::symlink("/etc/passwd", place.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/etc", place.path().join("etc")).unwrap();
        assert!(directory.read("link").is_err());
        assert!(directory.append("link", b"x").is_err());
        assert!(directory.child("etc").is_err());
        assert!(directory.create("link", b"x", 0o600, owner).is_err());
        assert!(directory.child("nothing").unwrap().is_none());
        let file = directory.usage("a").unwrap();
        assert!(file > 0 && directory.usage("etc").unwrap() < 1 << 20);
        directory.make("b", 0o700, owner).unwrap();
        let empty = directory.usage("b").unwrap();
        fs::write(place.path().join("b/c"), vec![1; 1 << 20]).unwrap();
        assert!(directory.usage("b").unwrap() >= empty + (1 << 20));
        assert_eq!(directory.usage("nothing").unwrap(), 0);
        assert!(directory.rename("a", &directory, "b").is_err());
        directory.remove_tree("b").unwrap();
        directory.remove_tree("b").unwrap();
    }
}
