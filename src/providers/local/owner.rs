//! Which metadata a `local.root` belongs to: the servers in it are on record there.
//!
//! The file `metadata-id` has the id of that metadata. Without it, a process with other
//! metadata would take all servers of the root for servers that no record knows.

use std::{
    collections::BTreeSet,
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use uuid::Uuid;

use super::{directory::Directory, failure, host::SERVERS, once, orphans, server::LOCKS};
use crate::domain::{Error, Reason, Result};

const FILE: &str = "metadata-id";

/// The relation of a root directory to metadata.
#[derive(Debug)]
pub struct Owner {
    root: PathBuf,
    /// The shared lock of a process that serves. Kept until the process ends.
    serving: Mutex<Option<File>>,
}

impl Owner {
    /// Of a root directory that is there.
    #[must_use]
    pub fn of(root: PathBuf) -> Self {
        let serving = Mutex::default();
        Self { root, serving }
    }

    /// Lets the process serve from this root, with the metadata of that id. The first one
    /// makes the root the metadata's: if servers are there already, only when one of them is
    /// `recorded`. Safe to call again.
    ///
    /// # Errors
    /// LOCAL_ROOT_MISMATCH for other metadata; LOCK_TIMEOUT while the root is given to other
    /// metadata; DATA_DIR_DAMAGED, DATA_DIR_UNWRITABLE.
    pub fn claim(&self, metadata: Uuid, recorded: &[Uuid]) -> Result<()> {
        // Before the look: the file is only exchanged while nobody holds the lock.
        self.hold()?;
        let root = Directory::open(&self.root)?;
        if self.read(&root)?.is_none() {
            self.refuse_unknown(recorded)?;
            once::write(&root, FILE, metadata)?;
        }
        self.verify(metadata)
    }

    /// Refuses metadata with another id than that of the root. Nothing is written.
    ///
    /// # Errors
    /// LOCAL_ROOT_MISMATCH; DATA_DIR_DAMAGED, also if the file is missing.
    pub fn verify(&self, metadata: Uuid) -> Result<()> {
        match self.read(&Directory::open(&self.root)?)? {
            Some(owner) if owner == metadata => Ok(()),
            Some(owner) => Err(self.mismatch(owner, metadata)),
            None => {
                let message = format!(
                    "{} is missing: the next start of `howdah serve` writes it",
                    self.path().display()
                );
                Err(Error::new(Reason::DataDirDamaged, message))
            }
        }
    }

    /// Makes the root that of other metadata, and answers which one it belonged to. No
    /// process may serve from it.
    ///
    /// # Errors
    /// DATA_DIR_IN_USE while a process serves from it; DATA_DIR_UNWRITABLE.
    pub fn adopt(&self, metadata: Uuid) -> Result<Option<Uuid>> {
        let lock = self.lock_file()?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!(
                    "a Howdah process serves from {}: stop all that do",
                    self.root.display()
                );
                return Err(Error::new(Reason::DataDirInUse, message));
            }
            Err(TryLockError::Error(error)) => return Err(failure::file(error, &self.lock_path())),
        }
        let root = Directory::open(&self.root)?;
        // A damaged file is replaced.
        let former = once::read(&root, FILE)?.and_then(Result::ok);
        once::replace(&root, FILE, metadata)?;
        Ok(former)
    }

    fn read(&self, root: &Directory) -> Result<Option<Uuid>> {
        let Some(parsed) = once::read(root, FILE)? else {
            return Ok(None);
        };
        parsed.map(Some).map_err(|error| {
            let message = format!(
                "{} holds no id of metadata: put it back from a backup, or let `howdah metadata \
                 adopt-root` write it, if no other metadata has servers there",
                self.path().display()
            );
            Error::new(Reason::DataDirDamaged, message).with_source(error)
        })
    }

    /// Refuses to take servers that this metadata does not know for its own.
    fn refuse_unknown(&self, recorded: &[Uuid]) -> Result<()> {
        let present: BTreeSet<Uuid> = orphans::present(&self.root)?
            .into_iter()
            .map(|server| server.uid)
            .collect();
        if present.is_empty() || recorded.iter().any(|uid| present.contains(uid)) {
            return Ok(());
        }
        let message = format!(
            "{} holds servers, and the metadata of this process knows none of them. {WAY_OUT}",
            self.root.join(SERVERS).display()
        );
        Err(Error::new(Reason::LocalRootMismatch, message))
    }

    fn mismatch(&self, owner: Uuid, metadata: Uuid) -> Error {
        let message = format!(
            "{} belongs to the metadata {owner}, and this process has the metadata {metadata}. \
             {WAY_OUT}",
            self.root.display()
        );
        Error::new(Reason::LocalRootMismatch, message)
    }

    /// Takes the shared lock of those who serve, once.
    fn hold(&self) -> Result<()> {
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        if serving.is_some() {
            return Ok(());
        }
        let lock = self.lock_file()?;
        match lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("{} is being given to other metadata", self.root.display());
                return Err(Error::new(Reason::LockTimeout, message));
            }
            Err(TryLockError::Error(error)) => return Err(failure::file(error, &self.lock_path())),
        }
        *serving = Some(lock);
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.root.join(FILE)
    }

    fn lock_path(&self) -> PathBuf {
        self.root.join(LOCKS).join(FILE)
    }

    fn lock_file(&self) -> Result<File> {
        let path = self.lock_path();
        open(&path).map_err(|error| failure::file(error, &path))
    }
}

const WAY_OUT: &str = "Give it a local.root of its own; if the former metadata is lost for good, \
                       `howdah metadata adopt-root` makes this root its own";

fn open(path: &Path) -> std::io::Result<File> {
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ONE: Uuid = Uuid::from_u128(1);
    const TWO: Uuid = Uuid::from_u128(2);

    fn refused(result: Result<()>) -> Reason {
        result.unwrap_err().reason()
    }

    #[test]
    fn of_two_at_once_one_gets_it() {
        let place = tempfile::tempdir().unwrap();
        let claim = |id| Owner::of(place.path().to_owned()).claim(id, &[]);
        let claims = std::thread::scope(|scope| {
            let claims: Vec<_> = [ONE, TWO].map(|id| scope.spawn(move || claim(id))).into();
            claims
                .into_iter()
                .map(|it| it.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1);
    }

    #[test]
    fn other_metadata_is_refused_until_it_is_adopted() {
        let place = tempfile::tempdir().unwrap();
        let owner = || Owner::of(place.path().to_owned());
        let serving = owner();
        serving.claim(ONE, &[]).unwrap();
        serving.claim(ONE, &[]).unwrap();
        assert_eq!(refused(owner().claim(TWO, &[])), Reason::LocalRootMismatch);
        assert_eq!(refused(owner().verify(TWO)), Reason::LocalRootMismatch);
        assert_eq!(refused(owner().adopt(TWO).map(drop)), Reason::DataDirInUse);
        drop(serving);
        assert_eq!(owner().adopt(TWO).unwrap(), Some(ONE));
        owner().claim(TWO, &[]).unwrap();
        assert_eq!(refused(owner().verify(ONE)), Reason::LocalRootMismatch);
    }

    /// The file is lost, beside servers.
    #[test]
    fn servers_are_given_only_to_metadata_that_knows_one() {
        let place = tempfile::tempdir().unwrap();
        let owner = || Owner::of(place.path().to_owned());
        let server = Uuid::from_u128(7);
        fs::create_dir_all(place.path().join(SERVERS).join(server.to_string())).unwrap();
        let other = Uuid::from_u128(8);
        assert_eq!(
            refused(owner().claim(ONE, &[other])),
            Reason::LocalRootMismatch
        );
        assert_eq!(refused(owner().verify(ONE)), Reason::DataDirDamaged);
        owner().claim(TWO, &[other, server]).unwrap();
        owner().verify(TWO).unwrap();
    }

    #[test]
    fn a_damaged_file_is_named_and_replaced_on_request() {
        let place = tempfile::tempdir().unwrap();
        let owner = Owner::of(place.path().to_owned());
        fs::write(place.path().join(FILE), "?").unwrap();
        assert_eq!(refused(owner.claim(ONE, &[])), Reason::DataDirDamaged);
        drop(owner);
        let owner = Owner::of(place.path().to_owned());
        assert_eq!(owner.adopt(ONE).unwrap(), None);
        owner.verify(ONE).unwrap();
    }
}
