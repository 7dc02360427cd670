//! The identity of this host: one per root directory, for ever.

use std::{fs, io, path::Path};

use uuid::Uuid;

use super::{directory::Directory, failure, user::RunAs};
use crate::domain::{
    Error, Reason, Result,
    random::{Random, SystemSource},
};

const FILE: &str = "host-id";

/// The identity of the host whose root is `root`, made by the first that asks.
pub(super) fn identity(root: &Directory) -> Result<Uuid> {
    if let Some(present) = read(root)? {
        return Ok(present);
    }
    let random = SystemSource::default();
    let made = random.uuid()?;
    let unfinished = format!("{FILE}.{}", random.uuid()?);
    root.create(
        &unfinished,
        format!("{made}\n").as_bytes(),
        0o644,
        RunAs::Ourselves,
    )?;
    let linked = link(&root.path().join(&unfinished), &root.path().join(FILE));
    root.unlink(&unfinished)?;
    linked?;
    root.sync()?;
    read(root)?.ok_or_else(|| Error::internal("the host id is gone"))
}

/// Gives the file its name, unless another process was first.
fn link(unfinished: &Path, path: &Path) -> Result<()> {
    match fs::hard_link(unfinished, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(failure::file(error, path))
        }
        _ => Ok(()),
    }
}

fn read(root: &Directory) -> Result<Option<Uuid>> {
    let Some(bytes) = root.read(FILE)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes);
    Uuid::try_parse(text.trim()).map(Some).map_err(|error| {
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
    use super::*;

    #[test]
    fn all_who_ask_at_once_get_the_same() {
        let place = tempfile::tempdir().unwrap();
        let all: Vec<Uuid> = std::thread::scope(|scope| {
            let ask = || identity(&Directory::open(place.path()).unwrap()).unwrap();
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(all.iter().all(|one| Some(one) == all.first()));
        let left = Directory::open(place.path()).unwrap().names().unwrap();
        assert_eq!(left, [FILE]);
    }

    #[test]
    fn a_damaged_one_is_named() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join(FILE), "").unwrap();
        let error = identity(&Directory::open(place.path()).unwrap()).unwrap_err();
        assert_eq!(error.reason(), Reason::DataDirDamaged);
        assert!(error.message().contains(FILE));
    }
}
