//! Commands of an operator on the trash. They work with and without a running process.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use rustix::process::geteuid;
use uuid::Uuid;

use super::{
    super::{
        control::{Cluster, DATA},
        directory::{Directory, blocking},
        failure, host,
        lock::Lock,
        orphans::{self, Present},
        owner::Owner,
        settings::Settings,
        sockets,
        user::RunAs,
    },
    delete_entry,
    entry::Name,
    names, throw,
};
use crate::domain::{Error, Reason, Result};

/// Longest wait for the lock of a server.
const LOCK: Duration = Duration::from_secs(60);

/// Time for a fast shutdown of a server whose data goes to the trash.
const PATIENCE: Duration = Duration::from_secs(60);

/// The data of one removed server, in the trash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Unique id of the server.
    pub uid: Uuid,
    /// When it was thrown away, in whole seconds.
    pub throw_time: DateTime<Utc>,
    /// When it will be deleted; none while it is being deleted.
    pub delete_time: Option<DateTime<Utc>>,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
}

/// The trash of a host, and the data of servers that no record knows.
#[derive(Clone, Debug)]
pub struct Trash {
    settings: Settings,
    run_as: RunAs,
}

impl Trash {
    /// Opens the trash below a root directory; none if the directory does not exist.
    ///
    /// # Errors
    /// CONFIG_INVALID; DATA_DIR_UNWRITABLE if the directory belongs to another user.
    pub fn open(mut settings: Settings) -> Result<Option<Self>> {
        let run_as = RunAs::resolve(settings.run_as.as_deref())?;
        let root = match settings.root.canonicalize() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(|error| failure::file(error, &settings.root))?,
        };
        let owner = fs::metadata(&root).map_err(|error| failure::file(error, &root))?;
        // Lock files made by another user would be closed to the process that serves.
        if owner.uid() != geteuid().as_raw() {
            let message = format!(
                "{} belongs to the user {}: run this as that user",
                root.display(),
                owner.uid()
            );
            return Err(Error::new(Reason::DataDirUnwritable, message));
        }
        settings.root = root;
        Ok(Some(Self { settings, run_as }))
    }

    /// The id of the host; none if it has none yet.
    ///
    /// # Errors
    /// DATA_DIR_DAMAGED.
    pub fn host(&self) -> Result<Option<Uuid>> {
        host::read(&Directory::open(&self.settings.root)?)
    }

    /// Which metadata the root directory belongs to.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::of(self.settings.root.clone())
    }

    /// The entries of the trash, the oldest first.
    ///
    /// # Errors
    /// DATA_DIR_UNWRITABLE when the trash cannot be read.
    pub async fn entries(&self) -> Result<Vec<Entry>> {
        let this = self.clone();
        blocking(move || {
            let Some(trash) = this.directory()? else {
                return Ok(Vec::new());
            };
            this.described(&trash, sorted(&trash)?)
        })
        .await
    }

    /// Deletes the entries of these servers, or all entries, and returns what was deleted. If an
    /// entry cannot be deleted the others are still deleted; the first error is returned.
    ///
    /// # Errors
    /// SERVER_DATA_NOT_FOUND, before anything is deleted; DATA_DIR_UNWRITABLE.
    pub async fn empty(&self, only: Option<BTreeSet<Uuid>>) -> Result<Vec<Entry>> {
        let this = self.clone();
        blocking(move || {
            let Some(trash) = this.directory()? else {
                return match only.iter().flatten().next() {
                    Some(uid) => Err(not_in_trash(*uid)),
                    None => Ok(Vec::new()),
                };
            };
            let mut wanted = sorted(&trash)?;
            if let Some(only) = &only {
                let lacks = |uid: &&Uuid| !wanted.iter().any(|name| name.server == **uid);
                if let Some(uid) = only.iter().find(lacks) {
                    return Err(not_in_trash(*uid));
                }
                wanted.retain(|name| only.contains(&name.server));
            }
            let described = this.described(&trash, wanted.clone())?;
            let (mut deleted, mut done) = (Vec::new(), Ok(()));
            for (name, entry) in wanted.iter().zip(described) {
                match delete_entry(&trash, name) {
                    Ok(true) => deleted.push(entry),
                    Ok(false) => {}
                    Err(error) => done = done.and(Err(error)),
                }
            }
            done.map(|()| deleted)
        })
        .await
    }

    /// Moves the newest data of a server from the trash back to its directory, and returns that
    /// path.
    ///
    /// # Errors
    /// SERVER_DATA_NOT_FOUND, SERVER_DATA_EXISTS, LOCK_TIMEOUT, DATA_DIR_UNWRITABLE.
    pub async fn restore(&self, uid: Uuid) -> Result<PathBuf> {
        if self.directory()?.is_none() {
            return Err(not_in_trash(uid));
        }
        let lock = self.lock(uid).await?;
        let restored = self.restore_locked(uid, lock.clone()).await;
        lock.remove()?;
        restored
    }

    async fn restore_locked(&self, uid: Uuid, lock: Lock) -> Result<PathBuf> {
        let root = self.settings.root.clone();
        blocking(move || {
            let _lock = lock;
            let (servers, trash) = (super::open(&root, "servers")?, super::open(&root, "trash")?);
            let kept = sorted(&trash)?;
            let newest = kept
                .iter()
                .rev()
                .find(|name| name.server == uid && !name.deleting);
            let newest = newest.ok_or_else(|| not_in_trash(uid))?;
            let name = uid.to_string();
            let place = servers.path().join(&name);
            if servers.child(&name)?.is_some() {
                let message = format!("the server has data already, in {}", place.display());
                return Err(Error::new(Reason::ServerDataExists, message));
            }
            refuse_foreign(&trash, &newest.to_string())?;
            if !trash.rename_present(&newest.to_string(), &servers, &name)? {
                return Err(not_in_trash(uid));
            }
            servers.sync()?;
            trash.sync()?;
            Ok(place)
        })
        .await
    }

    /// The servers whose data is on this host.
    ///
    /// # Errors
    /// DATA_DIR_UNWRITABLE when the directories cannot be read.
    pub async fn present(&self) -> Result<Vec<Present>> {
        let root = self.settings.root.clone();
        blocking(move || orphans::present(&root)).await
    }

    /// Stops a server that the metadata does not know, and moves its data to the trash.
    /// `unknown` asks the metadata: it returns the present time if no record has the server,
    /// otherwise none.
    ///
    /// # Errors
    /// SERVER_DATA_NOT_FOUND; SERVER_ON_RECORD if `unknown` returns none; the errors of
    /// `unknown`; LOCK_TIMEOUT, SERVER_NOT_STOPPED, DATA_DIR_UNWRITABLE.
    pub async fn throw(
        &self,
        uid: Uuid,
        unknown: impl AsyncFnOnce() -> Result<Option<DateTime<Utc>>>,
    ) -> Result<()> {
        let absent = || {
            let message = format!("there is no data of the server {uid} on this host");
            Error::new(Reason::ServerDataNotFound, message)
        };
        let present = self.present().await?;
        if !present.iter().any(|server| server.uid == uid) {
            return Err(absent());
        }
        let lock = self.lock(uid).await?;
        let thrown = self.throw_locked(uid, unknown, lock.clone()).await;
        lock.remove()?;
        thrown
    }

    async fn throw_locked(
        &self,
        uid: Uuid,
        unknown: impl AsyncFnOnce() -> Result<Option<DateTime<Utc>>>,
        lock: Lock,
    ) -> Result<()> {
        let now = unknown().await?.ok_or_else(|| {
            let message = format!(
                "the server {uid} is on record: `howdah instances delete` removes its instance"
            );
            Error::new(Reason::ServerOnRecord, message)
        })?;
        self.cluster(uid).stop_at_any_cost(PATIENCE).await?;
        let root = self.settings.root.clone();
        let run_directory = self.settings.run_directory.clone();
        blocking(move || {
            let _lock = lock;
            throw(&root, uid, now)?;
            sockets::remove(&run_directory, &uid.as_simple().to_string())
        })
        .await
    }

    async fn lock(&self, uid: Uuid) -> Result<Lock> {
        let path = self.settings.root.join("locks").join(uid.to_string());
        Lock::acquire(path, LOCK).await
    }

    /// The server as a [`Cluster`] that can only be stopped.
    fn cluster(&self, uid: Uuid) -> Cluster {
        let socket_directory =
            sockets::of(&self.settings.run_directory, &uid.as_simple().to_string());
        let home = self.settings.root.join("servers").join(uid.to_string());
        Cluster::to_stop(home, socket_directory, self.run_as)
    }

    /// The directory of the trash; none if no process has ever served here.
    fn directory(&self) -> Result<Option<Directory>> {
        Directory::open(&self.settings.root)?.child("trash")
    }

    fn described(&self, trash: &Directory, names: Vec<Name>) -> Result<Vec<Entry>> {
        let kept = TimeDelta::from_std(self.settings.trash_retention).unwrap_or(TimeDelta::MAX);
        let describe = |name: Name| {
            let due = name.time.checked_add_signed(kept);
            Ok(Entry {
                uid: name.server,
                throw_time: name.time,
                delete_time: due.filter(|_| !name.deleting),
                bytes: trash.usage(&name.to_string())?,
            })
        };
        names.into_iter().map(describe).collect()
    }
}

fn sorted(trash: &Directory) -> Result<Vec<Name>> {
    let mut names = names(trash)?;
    names.sort_by_key(|name| (name.time, name.server));
    Ok(names)
}

fn not_in_trash(uid: Uuid) -> Error {
    let message = format!("the trash holds no data of the server {uid} that is not being deleted");
    Error::new(Reason::ServerDataNotFound, message)
}

/// Refuses an entry that is not the directory of a server, for example a link or a file.
fn refuse_foreign(trash: &Directory, entry: &str) -> Result<()> {
    match trash.grandchild(entry, DATA) {
        Ok(Some(_)) => Ok(()),
        Ok(None) | Err(_) => {
            let place = trash.path().join(entry);
            let message = format!("{} is not the directory of a server", place.display());
            Err(Error::new(Reason::DataDirDamaged, message))
        }
    }
}
