//! The password of the metadata server, kept in the file `metadata.password`.

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

/// Length of the passwords that [`Random::password`] generates.
const LENGTH: usize = 32;

/// The password to connect with.
#[derive(Debug)]
pub(super) enum Password {
    /// Read from the file, or written to it for a server that will be made with it.
    Kept(SecretString),
    /// Generated now because the file was lost. The server does not know it yet.
    Lost(SecretString),
}

impl Password {
    /// Loads the password, or generates one. For a new server it is written to the file before
    /// the server is made. For an existing server (`present`) it is written after the server has
    /// accepted it: see [`replace`].
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

/// The password in the file; none if the file is missing, empty, truncated or malformed.
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

/// Sets the password `made` on a server whose password was lost. The file is written last: a
/// crash before that makes the next start repeat the replacement.
pub(super) async fn replace(
    cluster: &Cluster,
    plan: &Plan,
    place: &Directory,
    made: &SecretString,
) -> Result<()> {
    // A killed process may have left the server running; a standalone backend needs it stopped.
    cluster.stop(LIMIT).await?;
    standalone::set_password(plan, cluster.data(), made).await?;
    failpoint::hit("embedded.password.after_replace");
    write(place, made)?;
    tracing::warn!("the password of the metadata server was lost, it has a new one");
    Ok(())
}

/// The error for a running server whose password file is missing.
pub(super) fn lost(place: &Path) -> Error {
    let message = format!(
        "{} is missing or damaged: the next start of `howdah serve` makes a new one",
        place.join(FILE).display()
    );
    Error::new(Reason::DataDirDamaged, message)
}

/// Replaces the error of a start by a clearer one if the server refuses the password.
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
