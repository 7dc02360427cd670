//! Lists the servers that have data on this host, even if no record knows them.

use std::{collections::BTreeSet, path::Path};

use uuid::Uuid;

use super::{
    control::DATA,
    directory::Directory,
    processes::{self, PidFile, Process},
};
use crate::domain::Result;

pub use crate::domain::provider::Present;

/// The servers with a directory below the root, including unfinished ones.
pub(super) fn present(root: &Path) -> Result<Vec<Present>> {
    let Some(servers) = Directory::open(root)?.child("servers")? else {
        return Ok(Vec::new());
    };
    let names = servers.names()?;
    let uids: BTreeSet<Uuid> = names.iter().filter_map(|name| uid(name)).collect();
    let look = |uid: Uuid| Present {
        uid,
        running: runs(&servers, &uid.to_string()),
    };
    Ok(uids.into_iter().map(look).collect())
}

/// Whether the process that `postmaster.pid` names works in the server's directory. False if the
/// file cannot be read.
fn runs(servers: &Directory, name: &str) -> bool {
    let Ok(Some(data)) = servers.grandchild(name, DATA) else {
        return false;
    };
    let Ok(Some(bytes)) = data.read("postmaster.pid") else {
        return false;
    };
    let file = PidFile::parse(&String::from_utf8_lossy(&bytes));
    file.is_some_and(|file| {
        let process = processes::of_pid(file.pid, data.path());
        matches!(process, Process::Postmaster | Process::Inside)
    })
}

/// Parses the name of a server's directory, `{uid}`, or of an unfinished one, `{uid}.{token}`.
fn uid(name: &str) -> Option<Uuid> {
    let uid = name.split('.').next()?;
    Uuid::try_parse(uid)
        .ok()
        .filter(|read| read.to_string() == uid)
}
