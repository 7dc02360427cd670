//! Where the Unix sockets of servers lie: below the run directory, or below /tmp where
//! that cannot be made.
//!
//! A user's runtime directory goes with the last session, and only root can make it again.
//! The directory of a server below /tmp is there as long as the server is to use it: that
//! it is there is the record.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{directory::PRIVATE, failure, settings, user::RunAs};
use crate::domain::{Error, Reason, Result};

/// The directory of the socket of the server `name` as it was chosen last.
pub(super) fn of(run_directory: &Path, name: &str) -> PathBuf {
    let instead = instead_of(run_directory);
    // Only what is ours says something: in /tmp anybody can be first.
    let ours = |path: Option<&Path>| path.is_some_and(settings::is_ours);
    match ours(instead.parent()) && instead.join(name).is_dir() {
        true => instead.join(name),
        false => run_directory.join(name),
    }
}

/// Chooses the directory for the next start of a server that is down, and makes it.
///
/// # Errors
/// Those of [`make`] for the run directory, when no other directory can be made either.
pub(super) fn choose(run_directory: &Path, name: &str, run_as: RunAs) -> Result<PathBuf> {
    let (first, instead) = (run_directory.join(name), instead_of(run_directory));
    let error = match make(&first, run_as) {
        Ok(()) => {
            forget(&instead, name)?;
            return Ok(first);
        }
        Err(error) if error.reason() == Reason::DataDirUnwritable => error,
        Err(error) => return Err(error),
    };
    let chosen = instead.join(name);
    if let Err(other) = make(&chosen, run_as) {
        tracing::warn!(error = %other, "no other directory for sockets can be made");
        return Err(error);
    }
    tracing::warn!(
        %error,
        instead = %chosen.display(),
        "the run directory cannot be made, a server's socket lies elsewhere"
    );
    Ok(chosen)
}

/// Makes the directory of a server's socket, and what is above it.
///
/// # Errors
/// DATA_DIR_UNWRITABLE, DISK_FULL; CONFIG_INVALID when somebody else made it first.
pub(super) fn make(directory: &Path, run_as: RunAs) -> Result<()> {
    open(directory, run_as).map(|_| ())
}

/// As [`make`], and opens it.
pub(super) fn open(directory: &Path, run_as: RunAs) -> Result<super::directory::Directory> {
    let unnamed = || Error::internal("a socket directory has no place");
    let parent = directory.parent().ok_or_else(unnamed)?;
    let name = directory.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(unnamed)?;
    settings::make_run_directory(parent, run_as)?.make(name, PRIVATE, run_as)
}

/// Removes the directories of a server's sockets.
///
/// # Errors
/// DATA_DIR_UNWRITABLE.
pub(super) fn remove(run_directory: &Path, name: &str) -> Result<()> {
    forget(&instead_of(run_directory), name)?;
    remove_tree(&run_directory.join(name))
}

/// The directory below /tmp in the place of a run directory that cannot be made.
fn instead_of(run_directory: &Path) -> PathBuf {
    settings::temporary_base().join(settings::short(run_directory))
}

/// Removes the directory of a server below /tmp, if it is ours.
fn forget(instead: &Path, name: &str) -> Result<()> {
    match instead.parent().is_some_and(settings::is_ours) {
        true => remove_tree(&instead.join(name)),
        false => Ok(()),
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        // Nor is it there where a file is in the place of its parent.
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(failure::file(error, path))
        }
        _ => Ok(()),
    }
}
