//! The process that serves from the data directory, while it does.

use std::{
    fs::{File, TryLockError},
    path::Path,
};

use crate::bootstrap::{ADMIN_ENDPOINT, ENDPOINT, data_dir};

/// Where the process that serves from a data directory listens.
#[derive(Debug)]
pub struct Listening {
    /// Address of the API; empty until the start is complete.
    pub api: String,
    /// Address of the admin listener; empty until the start is complete.
    pub admin: String,
}

/// Where the process that serves from this data directory listens; none if no process serves.
///
/// The lock is tried for this. Only ask when an address is taken: a start that met the lock
/// at this moment would be refused, and with that address it is refused anyway.
#[must_use]
pub fn listening(data_dir: &Path) -> Option<Listening> {
    let lock = File::open(data_dir.join(data_dir::LOCK)).ok()?;
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        // What the files say is of a process that was killed.
        Ok(()) | Err(TryLockError::Error(_)) => return None,
    }
    let address = |name| {
        let text = data_dir::read(data_dir, name).ok().flatten();
        text.unwrap_or_default().trim().to_owned()
    };
    Some(Listening {
        api: address(ENDPOINT),
        admin: address(ADMIN_ENDPOINT),
    })
}
