//! The secret keys of this process.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::data_dir::{self, DataDir};
use crate::{
    config::{Config, SecretKey},
    domain::{Error, Reason, Result, random::Random},
    providers::local::embedded::{Trace, trace},
    store::sealing::{KEY_BYTES, Keyring},
};

/// File in the data directory that holds the key of embedded metadata.
const FILE: &str = "secret.key";

/// The keys from the configuration. Without any, embedded metadata uses the key file in the data
/// directory, which the first start creates. It is never created for existing metadata, because
/// a new key could not open anything there.
pub(super) fn keyring(config: &Config, data_dir: &DataDir, random: &dyn Random) -> Result<Keyring> {
    let fresh = config.database_url.is_none()
        && config.secret_keys.current.is_none()
        && trace(data_dir.path())? == Trace::None
        && data_dir::read(data_dir.path(), FILE)?.is_none();
    if fresh {
        let mut bytes = [0; KEY_BYTES];
        random.fill(&mut bytes)?;
        let text = SecretString::from(STANDARD.encode(bytes));
        data_dir.replace(FILE, text.expose_secret())?;
    }
    if let Some(message) = exposed(config) {
        tracing::warn!("{message}");
    }
    present(config)
}

/// Like [`keyring`], but never creates a key.
pub(super) fn present(config: &Config) -> Result<Keyring> {
    let configured = &config.secret_keys;
    let configured = configured.current.iter().chain(&configured.previous);
    let mut keys: Vec<SecretSlice<u8>> = configured.map(bytes).collect();
    if config.secret_keys.current.is_none() {
        if config.database_url.is_some() {
            let message = "a metadata database needs a secret key: set HOWDAH_SECRET_KEY";
            return Err(Error::new(Reason::SecretKeyInvalid, message));
        }
        keys.insert(0, own_key(&config.data_dir)?);
    }
    Keyring::new(&keys)
}

/// The key file; none if the configuration has the key.
pub(super) fn file(config: &Config) -> Option<PathBuf> {
    let own = config.secret_keys.current.is_none();
    own.then(|| config.data_dir.join(FILE))
}

/// What is wrong with the mode of the key file, and the command that corrects it. The key opens
/// all stored passwords, so only its owner may read the file.
pub(super) fn exposed(config: &Config) -> Option<String> {
    let path = file(config)?;
    let mode = fs::metadata(&path).ok()?.mode() & 0o777;
    let shown = path.display();
    (mode & 0o077 != 0).then(|| {
        format!(
            "{shown} is open to others than its owner (mode {mode:04o}): type chmod 0600 {shown}, \
             and rotate the key if somebody may have read it"
        )
    })
}

fn own_key(data_dir: &Path) -> Result<SecretSlice<u8>> {
    let invalid = |what: &str| {
        let message = format!(
            "{} {what}: put the file back from your backup, or set HOWDAH_SECRET_KEY if it was \
             set before; what is stored cannot be opened without this key",
            data_dir.join(FILE).display()
        );
        Error::new(Reason::SecretKeyInvalid, message)
    };
    let text = data_dir::read(data_dir, FILE)?.map(SecretString::from);
    let text = text.ok_or_else(|| invalid("is missing"))?;
    let key = SecretKey::parse(text.expose_secret()).map_err(|problem| invalid(&problem))?;
    Ok(bytes(&key))
}

fn bytes(key: &SecretKey) -> SecretSlice<u8> {
    SecretSlice::from(key.expose_secret().to_vec())
}
