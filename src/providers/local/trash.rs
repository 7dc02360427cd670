//! Where the data of removed servers waits for its end.

use std::path::Path;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{directory::Directory, failure, initialize};
use crate::{
    domain::{Error, Result},
    failpoint,
};

/// Moves a server's directory to the trash, and removes what unfinished tries left.
pub(super) fn throw(root: &Path, server: Uuid, now: DateTime<Utc>) -> Result<()> {
    let (servers, trash) = (open(root, "servers")?, open(root, "trash")?);
    let name = server.to_string();
    initialize::sweep(&servers, &format!("{name}."))?;
    if servers.child(&name)?.is_some() {
        let thrown = format!("{name}.{}", now.timestamp());
        servers.rename(&name, &trash, &thrown)?;
        failpoint::hit("local.remove.after_rename");
    }
    trash.sync()?;
    servers.sync()
}

/// Removes the directory of a server's sockets.
pub(super) fn remove_sockets(sockets: &Path) -> Result<()> {
    match std::fs::remove_dir_all(sockets) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failure::file(error, sockets))
        }
        _ => Ok(()),
    }
}

/// Deletes what was thrown away before that time.
pub(super) fn empty(root: &Path, before: DateTime<Utc>) -> Result<()> {
    let trash = open(root, "trash")?;
    for name in trash.names()? {
        if thrown(&name).is_some_and(|time| time <= before.timestamp()) {
            tracing::info!(directory = name, "data in the trash is deleted");
            failpoint::hit("local.trash.before_delete");
            trash.remove_tree(&name)?;
        }
    }
    Ok(())
}

/// When an entry was thrown away, in seconds since 1970.
fn thrown(name: &str) -> Option<i64> {
    let (uid, time) = name.split_once('.')?;
    Uuid::try_parse(uid).ok()?;
    time.parse().ok()
}

fn open(root: &Path, name: &str) -> Result<Directory> {
    let found = Directory::open(root)?.child(name)?;
    found.ok_or_else(|| Error::internal(format!("{name} is gone from the root directory")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletes_what_is_due_and_only_that() {
        let place = tempfile::tempdir().unwrap();
        let server = Uuid::from_u128(7);
        let home = place.path().join("servers").join(server.to_string());
        std::fs::create_dir_all(home.join("data")).unwrap();
        std::fs::create_dir_all(place.path().join("trash/keep")).unwrap();
        std::fs::create_dir_all(home.with_extension("3")).unwrap();
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        throw(place.path(), server, at(100)).unwrap();
        throw(place.path(), server, at(101)).unwrap();
        let names = |name| {
            let mut names = open(place.path(), name).unwrap().names().unwrap();
            names.sort();
            names
        };
        assert_eq!(names("servers"), [""; 0]);
        assert_eq!(names("trash"), [&format!("{server}.100"), "keep"]);
        empty(place.path(), at(99)).unwrap();
        assert_eq!(names("trash").len(), 2);
        empty(place.path(), at(100)).unwrap();
        assert_eq!(names("trash"), ["keep"]);
    }
}
