//! The trash: keeps the data of removed servers for a while.
//!
//! An entry is a directory `{uid}.{seconds}`, named after the time of the removal. Before its
//! first file is deleted, an entry is renamed to `{uid}.{seconds}.deleting`. From then on it
//! cannot be restored, and any process that finds it deletes it. An entry that was restored in
//! the meantime no longer has the old name, so the rename fails and nothing is deleted.

mod commands;
mod entry;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use uuid::Uuid;

pub use self::commands::{Entry, Trash};
use self::entry::Name;
use super::{directory::Directory, initialize};
use crate::{
    domain::{Error, Result},
    failpoint,
};

/// Moves a server's directory to the trash, and removes what unfinished attempts have left.
pub(super) fn throw(root: &Path, server: Uuid, now: DateTime<Utc>) -> Result<()> {
    take(root, Name::kept(server, now))
}

/// Deletes a server's directory and all entries of that server in the trash.
pub(super) fn delete(root: &Path, server: Uuid, now: DateTime<Utc>) -> Result<()> {
    // An entry that an earlier attempt has left may have the name that is needed below.
    delete_where(root, |name| name.server == server)?;
    // The rename comes first: a crash must not leave half of a directory among the servers.
    take(root, Name::kept(server, now).deleting())?;
    delete_where(root, |name| name.server == server)
}

/// Moves a server's directory into the trash under the name `entry`.
fn take(root: &Path, entry: Name) -> Result<()> {
    let (servers, trash) = (open(root, "servers")?, open(root, "trash")?);
    let name = entry.server.to_string();
    initialize::sweep(&servers, &format!("{name}."))?;
    if servers.child(&name)?.is_some() {
        servers.rename(&name, &trash, &entry.to_string())?;
        failpoint::hit("local.remove.after_rename");
    }
    trash.sync()?;
    servers.sync()
}

/// Time for which an entry must stay due before it is deleted. A clock that is wrong after a
/// boot is corrected within that time, and the entries that it made due are kept.
const PROOF: Duration = Duration::from_secs(60 * 60);

/// Deletes entries whose retention has passed. The time comes from the metadata database's
/// clock, which may jump. So an entry is deleted only if the clock has called it due for a
/// while.
#[derive(Debug, Default)]
pub(super) struct Emptying {
    due: Mutex<HashMap<Name, Instant>>,
}

impl Emptying {
    /// Deletes entries that were thrown away longer than `retention` before `now`. They must
    /// have been due at each call for [`PROOF`], or for `retention` if that is shorter. `at` is
    /// a monotonic time. If an entry cannot be deleted the others are still deleted; the first
    /// error is returned.
    pub(super) fn empty(
        &self,
        root: &Path,
        now: DateTime<Utc>,
        retention: Duration,
        at: Instant,
    ) -> Result<()> {
        let trash = open(root, "trash")?;
        let (before, proof) = (now - retention, retention.min(PROOF));
        let names = names(&trash)?.into_iter();
        let names: Vec<Name> = names
            .filter(|name| name.deleting || name.time <= before)
            .collect();
        let mut done = Ok(());
        for name in self.proven(&names, at, proof) {
            tracing::info!(directory = %name, "data in the trash is deleted");
            failpoint::hit("local.trash.before_delete");
            done = done.and(delete_entry(&trash, &name).map(|_| ()));
        }
        done
    }

    /// Returns the due entries that have been due for `proof`. Forgets entries that are not due
    /// any more or are gone.
    fn proven(&self, names: &[Name], at: Instant, proof: Duration) -> Vec<Name> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.retain(|name, _| names.contains(name));
        let mut is_proven = |name: &Name| {
            let since = due.entry(*name).or_insert_with(|| {
                tracing::info!(directory = %name, ?proof, "data in the trash is due");
                at
            });
            name.deleting || at.saturating_duration_since(*since) >= proof
        };
        let names = names.iter().copied();
        names.filter(|name| is_proven(name)).collect()
    }
}

/// Deletes the entries that fulfil `wanted`. If an entry cannot be deleted the others are still
/// deleted; the first error is returned.
fn delete_where(root: &Path, wanted: impl Fn(&Name) -> bool) -> Result<()> {
    let trash = open(root, "trash")?;
    let mut done = Ok(());
    for name in names(&trash)?.iter().filter(|name| wanted(name)) {
        done = done.and(delete_entry(&trash, name).map(|_| ()));
    }
    done
}

/// Deletes an entry. Returns `false` if it was not there any more.
fn delete_entry(trash: &Directory, entry: &Name) -> Result<bool> {
    let doomed = entry.deleting();
    // Another process may have restored the entry, or may be deleting it too.
    if !entry.deleting && !trash.rename_present(&entry.to_string(), trash, &doomed.to_string())? {
        return Ok(false);
    }
    trash.remove_tree(&doomed.to_string())?;
    Ok(true)
}

/// The entries of the trash. Files with other names are ignored.
fn names(trash: &Directory) -> Result<Vec<Name>> {
    let names = trash.names()?;
    Ok(names.iter().filter_map(|name| Name::parse(name)).collect())
}

fn open(root: &Path, name: &str) -> Result<Directory> {
    let found = Directory::open(root)?.child(name)?;
    found.ok_or_else(|| Error::internal(format!("{name} is gone from the root directory")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn listed(root: &Path, name: &str) -> Vec<String> {
        let mut names = open(root, name).unwrap().names().unwrap();
        names.sort();
        names
    }

    fn home(root: &Path, server: Uuid) {
        let home = root.join("servers").join(server.to_string());
        std::fs::create_dir_all(home.join("data")).unwrap();
    }

    #[test]
    fn deletes_what_is_due_and_only_that() {
        let place = tempfile::tempdir().unwrap();
        let (root, server) = (place.path(), Uuid::from_u128(7));
        home(root, server);
        std::fs::create_dir_all(root.join("trash/keep")).unwrap();
        std::fs::create_dir_all(root.join(format!("servers/{server}.3"))).unwrap();
        let left = Name::kept(Uuid::from_u128(8), at(900)).deleting();
        std::fs::create_dir_all(root.join("trash").join(left.to_string())).unwrap();
        throw(root, server, at(100)).unwrap();
        throw(root, server, at(101)).unwrap();
        assert_eq!(listed(root, "servers"), [""; 0]);
        let (emptying, start) = (Emptying::default(), Instant::now());
        let empty = |root, now| emptying.empty(root, now, Duration::ZERO, start);
        empty(root, at(99)).unwrap();
        assert_eq!(listed(root, "trash"), [&format!("{server}.100"), "keep"]);
        empty(root, at(100)).unwrap();
        assert_eq!(listed(root, "trash"), ["keep"]);
    }

    #[test]
    fn a_clock_that_jumps_and_is_set_right_deletes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let (root, server) = (place.path(), Uuid::from_u128(7));
        std::fs::create_dir_all(root.join("trash")).unwrap();
        home(root, server);
        throw(root, server, at(100)).unwrap();
        let (emptying, start) = (Emptying::default(), Instant::now());
        let week = Duration::from_secs(7 * 24 * 60 * 60);
        let due = 100 + 7 * 24 * 60 * 60;
        let mut passed = Duration::ZERO;
        let mut empty = |clock, more| {
            passed += more;
            emptying
                .empty(root, at(clock), week, start + passed)
                .unwrap();
            listed(root, "trash").len()
        };
        let (nearly, second) = (PROOF - Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(empty(due + 9999, Duration::ZERO), 1);
        assert_eq!(empty(due + 9999, nearly), 1);
        // The clock was corrected, so the time that had passed before does not count.
        assert_eq!(empty(200, second), 1);
        assert_eq!(empty(due, second), 1);
        assert_eq!(empty(due, nearly), 1);
        assert_eq!(empty(due, second), 0);
    }

    #[test]
    fn deletes_a_server_with_all_that_is_kept_of_it() {
        let place = tempfile::tempdir().unwrap();
        let (root, server, other) = (place.path(), Uuid::from_u128(7), Uuid::from_u128(8));
        std::fs::create_dir_all(root.join("trash")).unwrap();
        for thrown in [server, other] {
            home(root, thrown);
            throw(root, thrown, at(100)).unwrap();
        }
        // A crash has left an entry of the same second.
        let left = Name::kept(server, at(101)).deleting();
        std::fs::create_dir_all(root.join("trash").join(left.to_string())).unwrap();
        home(root, server);
        delete(root, server, at(101)).unwrap();
        delete(root, server, at(101)).unwrap();
        assert_eq!(listed(root, "servers"), [""; 0]);
        assert_eq!(listed(root, "trash"), [format!("{other}.100")]);
    }

    /// The entry is a file, which cannot be deleted as a directory.
    #[test]
    fn what_cannot_be_deleted_keeps_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        for name in ["servers", "trash"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        let servers = [6, 7, 8, 9].map(Uuid::from_u128);
        let stuck = Name::kept(servers[1], at(100)).deleting();
        for server in servers {
            let entry = Name::kept(server, at(100));
            match server == stuck.server {
                true => std::fs::write(root.join(format!("trash/{stuck}")), "").unwrap(),
                false => std::fs::create_dir(root.join(format!("trash/{entry}"))).unwrap(),
            }
        }
        let error = delete_where(root, |name| name.server != servers[3]).unwrap_err();
        assert!(error.message().contains(&stuck.to_string()), "{error:?}");
        let last = Name::kept(servers[3], at(100));
        assert_eq!(listed(root, "trash"), [stuck.to_string(), last.to_string()]);
        let emptying = Emptying::default();
        let emptied = emptying.empty(root, at(200), Duration::ZERO, Instant::now());
        emptied.unwrap_err();
        assert_eq!(listed(root, "trash"), [stuck.to_string()]);
    }

    #[test]
    fn an_entry_that_was_restored_meanwhile_is_not_deleted() {
        let place = tempfile::tempdir().unwrap();
        let (root, server) = (place.path(), Uuid::from_u128(7));
        std::fs::create_dir_all(root.join("trash")).unwrap();
        let trash = open(root, "trash").unwrap();
        let entry = Name::kept(server, at(100));
        assert!(!delete_entry(&trash, &entry).unwrap());
        std::fs::create_dir(root.join("trash").join(entry.to_string())).unwrap();
        assert!(delete_entry(&trash, &entry).unwrap());
        assert_eq!(listed(root, "trash"), [""; 0]);
    }
}
