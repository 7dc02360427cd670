//! Files below `local.root` that hold one UUID, written once.

use std::{fs, io, path::Path};

use uuid::Uuid;

use super::{directory::Directory, failure, user::RunAs};
use crate::domain::{
    Result,
    random::{Random, SystemSource},
};

/// The UUID in a file, if that is there. The error says what is wrong with its contents.
pub(super) fn read(root: &Directory, file: &str) -> Result<Option<Result<Uuid, uuid::Error>>> {
    let Some(bytes) = root.read(file)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes);
    Ok(Some(Uuid::try_parse(text.trim())))
}

/// Writes a file that is not there. Of several processes at once the first one wins: what
/// it wrote has to be read afterwards.
pub(super) fn write(root: &Directory, file: &str, id: Uuid) -> Result<()> {
    let unfinished = format!("{file}.{}", SystemSource::default().uuid()?);
    root.create(&unfinished, &contents(id), MODE, RunAs::Ourselves)?;
    let linked = link(&root.path().join(&unfinished), &root.path().join(file));
    root.unlink(&unfinished)?;
    linked?;
    root.sync()
}

/// Puts another UUID in the place of the one that is there.
pub(super) fn replace(root: &Directory, file: &str, id: Uuid) -> Result<()> {
    root.replace(file, &contents(id), MODE, RunAs::Ourselves, || ())
}

/// Readable by all: it is no secret.
const MODE: u32 = 0o644;

fn contents(id: Uuid) -> Vec<u8> {
    format!("{id}\n").into_bytes()
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
