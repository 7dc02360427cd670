//! The id of this host. Each root directory has one, which never changes.

use uuid::Uuid;

use super::{directory::Directory, once};
use crate::domain::{
    Error, Reason, Result,
    random::{Random, SystemSource},
};

const FILE: &str = "host-id";

/// Directory of the servers' homes.
pub(super) const SERVERS: &str = "servers";

/// The id of the host with this root directory. The first process that asks creates it.
pub(super) fn id(root: &Directory) -> Result<Uuid> {
    if let Some(present) = read(root)? {
        return Ok(present);
    }
    refuse_lost(root)?;
    once::write(root, FILE, SystemSource::default().uuid()?)?;
    read(root)?.ok_or_else(|| Error::internal("the host id is gone"))
}

/// Returns the error that [`id`] would return, without creating an id.
pub(super) fn examine(root: &Directory) -> Result<()> {
    match read(root)? {
        Some(_) => Ok(()),
        None => refuse_lost(root),
    }
}

/// Refuses to create a new id beside existing servers: they belong to the host whose id was
/// lost.
fn refuse_lost(root: &Directory) -> Result<()> {
    let servers = root.child(SERVERS)?.map(|servers| servers.names());
    if servers.transpose()?.is_none_or(|names| names.is_empty()) {
        return Ok(());
    }
    let message = format!(
        "{} is missing beside servers: put it back from a backup, or write into it the id of \
         their host, which `howdah instances list --output json` shows; where they are not wanted \
         any more, move {} away",
        root.path().join(FILE).display(),
        root.path().join(SERVERS).display()
    );
    Err(Error::new(Reason::DataDirDamaged, message))
}

/// The identity of the host, if it has one.
pub(super) fn read(root: &Directory) -> Result<Option<Uuid>> {
    let Some(parsed) = once::read(root, FILE)? else {
        return Ok(None);
    };
    parsed.map(Some).map_err(|error| {
        let message = format!(
            "{} holds no host id: put it back from a backup; without it, this is another host, \
             and the servers here are not its own",
            root.path().join(FILE).display()
        );
        Error::new(Reason::DataDirDamaged, message).with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn all_who_ask_at_once_get_the_same() {
        let place = tempfile::tempdir().unwrap();
        let all: Vec<Uuid> = std::thread::scope(|scope| {
            let ask = || id(&Directory::open(place.path()).unwrap()).unwrap();
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(all.iter().all(|one| Some(one) == all.first()));
        let left = Directory::open(place.path()).unwrap().names().unwrap();
        assert_eq!(left, [FILE]);
    }

    #[test]
    fn one_that_is_lost_beside_servers_is_named() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("servers")).unwrap();
        let root = Directory::open(place.path()).unwrap();
        id(&root).unwrap();
        fs::create_dir(place.path().join("servers/one")).unwrap();
        id(&root).unwrap();
        fs::remove_file(place.path().join(FILE)).unwrap();
        let error = id(&root).unwrap_err();
        assert_eq!(error.reason(), Reason::DataDirDamaged);
        assert!(error.message().contains(FILE));
        assert_eq!(root.names().unwrap(), ["servers"]);
    }

    #[test]
    fn something_else_in_its_place_is_named() {
        let place = tempfile::tempdir().unwrap();
        let root = Directory::open(place.path()).unwrap();
        let refused = || id(&root).unwrap_err().reason();
        fs::create_dir(place.path().join(FILE)).unwrap();
        assert_eq!(refused(), Reason::DataDirDamaged);
        fs::remove_dir(place.path().join(FILE)).unwrap();
        std::os::unix::fs::symlink("nowhere", place.path().join(FILE)).unwrap();
        assert_eq!(refused(), Reason::DataDirDamaged);
    }

    #[test]
    fn a_damaged_one_is_named() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join(FILE), "").unwrap();
        let error = id(&Directory::open(place.path()).unwrap()).unwrap_err();
        assert_eq!(error.reason(), Reason::DataDirDamaged);
        assert!(error.message().contains(FILE));
    }
}
