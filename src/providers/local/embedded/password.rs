//! The password of the metadata server, in the file `metadata.password`.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::{DATABASE, LIMIT};
use crate::{
    domain::{
        Error, Reason, Result,
        random::{Random, SystemSource},
    },
    failpoint,
    providers::local::{
        control::Cluster, directory::Directory, initialize::Plan, standalone, user::RunAs,
    },
};

const FILE: &str = "metadata.password";

/// Length of what [`Random::password`] makes.
const LENGTH: usize = 32;

/// The password to be used.
#[derive(Debug)]
pub(super) enum Password {
    /// On the disk, and of a server that is made with it or was.
    Kept(SecretString),
    /// Generated now, for a server whose password was lost. The server does not have it yet.
    Lost(SecretString),
}

impl Password {
    /// The password on the disk. Without one, a new one: on the disk before a server is
    /// made with it, but not before a server that is there (`present`) has taken it.
    pub(super) fn load(place: &Directory, present: bool) -> Result<Self> {
        if let Some(password) = read(place)? {
            return Ok(Self::Kept(password));
        }
        let made = SystemSource::default().password()?;
        if present {
            return Ok(Self::Lost(made));
        }
        write(place, &made)?;
        failpoint::hit("embedded.password.after_write");
        Ok(Self::Kept(made))
    }

    pub(super) fn get(&self) -> &SecretString {
        match self {
            Self::Kept(password) | Self::Lost(password) => password,
        }
    }
}

/// What the file holds; none if it is not there, empty, cut or something else.
pub(super) fn read(place: &Directory) -> Result<Option<SecretString>> {
    let bytes = place.read(FILE).map_err(|error| {
        let path = place.path().join(FILE);
        let message = format!(
            "{} cannot be read: correct its owner and mode, or remove it, and the next start \
             makes a new one",
            path.display()
        );
        Error::new(Reason::DataDirDamaged, message).with_source(error)
    })?;
    let text = String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default();
    let text = text.trim();
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let whole = text.len() == LENGTH && text.bytes().all(known);
    Ok(whole.then(|| SecretString::from(text)))
}

pub(super) fn write(place: &Directory, password: &SecretString) -> Result<()> {
    let text = password.expose_secret().as_bytes();
    place.replace(FILE, text, 0o600, RunAs::Ourselves, || ())
}

/// Gives the server the password `made` in the place of the one that was lost. The file
/// comes last: after a crash before that, the next start begins anew.
pub(super) async fn replace(
    cluster: &Cluster,
    plan: &Plan,
    place: &Directory,
    made: &SecretString,
) -> Result<()> {
    // A process that was killed may have left it running.
    cluster.stop(LIMIT).await?;
    standalone::set_password(plan, cluster.data(), made).await?;
    failpoint::hit("embedded.password.after_replace");
    write(place, made)?;
    tracing::warn!("the password of the metadata server was lost, it has a new one");
    Ok(())
}

/// The file is not there while the server runs.
pub(super) fn lost(place: &Path) -> Error {
    let message = format!(
        "{} is missing or damaged: the next start of `howdah serve` makes a new one",
        place.join(FILE).display()
    );
    Error::new(Reason::DataDirDamaged, message)
}

/// The error of a start, or a better one if the server refuses the password.
pub(super) async fn explain(cluster: &Cluster, place: &Path, error: Error) -> Error {
    if error.reason() != Reason::ServerMismatch {
        return error;
    }
    match cluster.connect(DATABASE).await {
        Err(refused) if refused.is_auth() => {
            let message = format!(
                "the metadata server refuses the password in {}: put the right file back, or \
                 remove it, and the next start makes a new one",
                place.join(FILE).display()
            );
            Error::new(Reason::DataDirDamaged, message).with_source(refused)
        }
        _ => error,
    }
}
