//! Finds the process that serves from a data directory.

use std::{
    fs::{File, TryLockError},
    path::Path,
};

use crate::bootstrap::{ADMIN_ENDPOINT, ENDPOINT, data_dir};

/// Endpoints of the process that serves from a data directory.
#[derive(Debug)]
pub struct Listening {
    /// Address of the API; empty until the start is complete.
    pub api: String,
    /// Address of the admin listener; empty until the start is complete.
    pub admin: String,
}

/// The endpoints of the process that serves from this data directory; none if no process does.
///
/// This tries the lock for a moment, and a start at that moment would be refused. So call it
/// only when an address is in use: then a start would be refused anyway.
#[must_use]
pub fn listening(data_dir: &Path) -> Option<Listening> {
    let lock = File::open(data_dir.join(data_dir::LOCK)).ok()?;
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        // The files are left over from a killed process.
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
