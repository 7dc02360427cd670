//! Chooses where the Unix sockets of servers lie: below the run directory, or below /tmp if the
//! run directory cannot be made.
//!
//! A user's runtime directory disappears with the user's last session, and only root can make it
//! again. There is no other record of the choice: a server whose directory below /tmp exists
//! uses that directory.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{directory::PRIVATE, failure, settings, user::RunAs};
use crate::domain::{Error, Reason, Result};

/// The socket directory of the server `name`, as it was last chosen.
pub(super) fn of(run_directory: &Path, name: &str) -> PathBuf {
    let instead = instead_of(run_directory);
    // Any user can create directories in /tmp, so only a directory of ours counts.
    let ours = |path: Option<&Path>| path.is_some_and(settings::is_ours);
    match ours(instead.parent()) && instead.join(name).is_dir() {
        true => instead.join(name),
        false => run_directory.join(name),
    }
}

/// Chooses and makes the socket directory for the next start of a server that is down.
///
/// # Errors
/// Errors of [`make`] for the run directory, if the directory below /tmp cannot be made either.
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

/// Makes a server's socket directory and its parents.
///
/// # Errors
/// DATA_DIR_UNWRITABLE, DISK_FULL; CONFIG_INVALID when another user owns the directory above.
pub(super) fn make(directory: &Path, run_as: RunAs) -> Result<()> {
    open(directory, run_as).map(|_| ())
}

/// Like [`make`], and opens the directory.
pub(super) fn open(directory: &Path, run_as: RunAs) -> Result<super::directory::Directory> {
    let unnamed = || Error::internal("a socket directory has no place");
    let parent = directory.parent().ok_or_else(unnamed)?;
    let name = directory.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(unnamed)?;
    settings::make_run_directory(parent, run_as)?.make(name, PRIVATE, run_as)
}

/// Removes both possible socket directories of a server.
///
/// # Errors
/// DATA_DIR_UNWRITABLE.
pub(super) fn remove(run_directory: &Path, name: &str) -> Result<()> {
    forget(&instead_of(run_directory), name)?;
    remove_tree(&run_directory.join(name))
}

/// The directory below /tmp that replaces a run directory.
fn instead_of(run_directory: &Path) -> PathBuf {
    settings::temporary_base().join(settings::short(run_directory))
}

/// Removes a server's directory below /tmp, if its parent is ours.
fn forget(instead: &Path, name: &str) -> Result<()> {
    match instead.parent().is_some_and(settings::is_ours) {
        true => remove_tree(&instead.join(name)),
        false => Ok(()),
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        // If a file is in the place of the parent, the directory does not exist either.
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(failure::file(error, path))
        }
        _ => Ok(()),
    }
}
