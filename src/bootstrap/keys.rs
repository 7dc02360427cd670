//! The keys that stored secrets are sealed with.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretSlice};

use super::data_dir::DataDir;
use crate::{
    config::{Config, SecretKey},
    domain::{Error, Reason, Result, random::Random},
    store::sealing::{KEY_BYTES, Keyring},
};

/// The keys from the settings; for embedded metadata without any, the one of the data
/// directory, which the first start writes.
pub(super) fn keyring(config: &Config, data_dir: &DataDir, random: &dyn Random) -> Result<Keyring> {
    let configured = &config.secret_keys;
    let mut keys: Vec<SecretSlice<u8>> = configured
        .current
        .iter()
        .chain(&configured.previous)
        .map(|key| SecretSlice::from(key.expose_secret().to_vec()))
        .collect();
    if config.secret_keys.current.is_none() {
        if config.database_url.is_some() {
            let message = "a metadata database needs a secret key: set HOWDAH_SECRET_KEY";
            return Err(Error::new(Reason::SecretKeyInvalid, message));
        }
        keys.insert(0, own_key(data_dir, random)?);
    }
    Keyring::new(&keys)
}

fn own_key(data_dir: &DataDir, random: &dyn Random) -> Result<SecretSlice<u8>> {
    let text = data_dir.keep("secret.key", || {
        let mut bytes = [0; KEY_BYTES];
        random.fill(&mut bytes)?;
        Ok(STANDARD.encode(bytes))
    })?;
    let key = SecretKey::parse(&text).map_err(|problem| {
        Error::new(
            Reason::SecretKeyInvalid,
            format!("the file secret.key {problem}"),
        )
    })?;
    Ok(SecretSlice::from(key.expose_secret().to_vec()))
}
