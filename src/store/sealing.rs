//! Encrypts secrets that must be given back in clear text, with AES-256-GCM.
//!
//! Format of a sealed value: version byte 1, length and bytes of the key id, a nonce of 12
//! bytes, the ciphertext, and its tag of 16 bytes. The label of the row is the additional data,
//! so a value cannot be moved to another row.

mod registry;
mod reseal;

use std::sync::Arc;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest::{SHA256, digest},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use crate::domain::{Error, Reason, Result};

pub(super) use self::registry::refused;
pub use self::{
    registry::{KeyUse, RegisteredKey, key_uses},
    reseal::{Batch, Label, Sealed},
};

const FORM: u8 = 1;

/// Length of a key in bytes.
pub const KEY_BYTES: usize = 32;

/// A key and its id, which is a part of the key's hash.
struct Key {
    id: String,
    key: RandomizedNonceKey,
}

/// The secret keys. The first one seals; all of them open.
#[derive(Clone)]
pub struct Keyring(Arc<Vec<Key>>);

impl std::fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<&str> = self.0.iter().map(|key| key.id.as_str()).collect();
        formatter.debug_tuple("Keyring").field(&ids).finish()
    }
}

impl Keyring {
    /// Creates a ring of keys with [`KEY_BYTES`] bytes each. The first one seals.
    ///
    /// # Errors
    /// SECRET_KEY_INVALID for a key of another length, or without any key.
    pub fn new(keys: &[SecretSlice<u8>]) -> Result<Self> {
        let keys: Vec<Key> = keys.iter().map(key).collect::<Result<_>>()?;
        if keys.is_empty() {
            return Err(Error::new(
                Reason::SecretKeyInvalid,
                "no secret key is configured",
            ));
        }
        Ok(Self(Arc::new(keys)))
    }

    /// Seals `secret` for the row that `label` names.
    ///
    /// # Errors
    /// INTERNAL when the cipher fails.
    pub fn seal(&self, secret: &SecretString, label: &str) -> Result<Vec<u8>> {
        let failed = || Error::internal("sealing failed");
        let key = self.0.first().ok_or_else(failed)?;
        let mut text = secret.expose_secret().as_bytes().to_vec();
        let aad = Aad::from(label.as_bytes());
        let nonce = key
            .key
            .seal_in_place_append_tag(aad, &mut text)
            .map_err(|_| failed())?;
        let mut sealed = vec![FORM, u8::try_from(key.id.len()).map_err(|_| failed())?];
        sealed.extend_from_slice(key.id.as_bytes());
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&text);
        Ok(sealed)
    }

    /// Opens a value that was sealed for the same row.
    ///
    /// # Errors
    /// SECRET_KEY_INVALID when its key is not in the ring, or when it was changed.
    pub fn open(&self, sealed: &[u8], label: &str) -> Result<SecretString> {
        let broken = || {
            Error::new(
                Reason::SecretKeyInvalid,
                "a stored secret does not open with the keys given",
            )
            .with_context(format!("sealed value of {label}"))
        };
        let (&[form, length], rest) = sealed.split_first_chunk::<2>().ok_or_else(broken)?;
        let (id, rest) = rest
            .split_at_checked(usize::from(length))
            .ok_or_else(broken)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(broken)?;
        let key = self
            .0
            .iter()
            .find(|key| key.id.as_bytes() == id)
            .filter(|_| form == FORM);
        let mut text = text.to_vec();
        let aad = Aad::from(label.as_bytes());
        let key = key.ok_or_else(broken)?;
        let opened = key.key.open_in_place(Nonce::from(nonce), aad, &mut text);
        let opened = opened.map_err(|_| broken())?;
        String::from_utf8(opened.to_vec())
            .map(SecretString::from)
            .map_err(|_| broken())
    }

    /// Id of the key that seals. It is not secret, because it is a part of the key's hash.
    #[must_use]
    pub fn id(&self) -> &str {
        self.0.first().map_or("", |key| key.id.as_str())
    }

    /// Whether the key with that id is in the ring.
    #[must_use]
    pub fn holds(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id == id)
    }

    /// Ids of all keys, the sealing one first.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.0.iter().map(|key| key.id.clone()).collect()
    }
}

fn key(bytes: &SecretSlice<u8>) -> Result<Key> {
    let bytes = bytes.expose_secret();
    let key = RandomizedNonceKey::new(&AES_256_GCM, bytes).map_err(|_| {
        let message = format!(
            "a secret key has {} bytes instead of {KEY_BYTES}",
            bytes.len()
        );
        Error::new(Reason::SecretKeyInvalid, message)
    })?;
    let hash = digest(&SHA256, &[b"howdah key id", bytes].concat());
    let id = URL_SAFE_NO_PAD.encode(hash.as_ref().get(..6).unwrap_or_default());
    Ok(Key { id, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(bytes: &[u8]) -> Keyring {
        let keys: Vec<SecretSlice<u8>> = bytes
            .iter()
            .map(|byte| SecretSlice::from(vec![*byte; KEY_BYTES]))
            .collect();
        Keyring::new(&keys).unwrap()
    }

    #[test]
    fn opens_for_the_same_row_and_key_alone() {
        let sealed = ring(&[1])
            .seal(&SecretString::from("pass"), "row 1")
            .unwrap();
        assert_eq!(
            ring(&[2, 1])
                .open(&sealed, "row 1")
                .unwrap()
                .expose_secret(),
            "pass"
        );
        assert!(ring(&[1]).open(&sealed, "row 2").is_err());
        assert!(ring(&[2]).open(&sealed, "row 1").is_err());
        for end in 0..sealed.len() {
            assert!(ring(&[1]).open(&sealed[..end], "row 1").is_err());
        }
        assert!(!format!("{:?}", ring(&[1])).contains("[1, 1"));
    }

    proptest::proptest! {
        /// A changed value does not open, and neither do other bytes.
        #[test]
        fn opens_nothing_else(
            secret in ".{0,40}",
            at in proptest::arbitrary::any::<proptest::sample::Index>(),
            bit in 0..8u8,
            other in proptest::collection::vec(0u8.., 0..80),
        ) {
            let ring = ring(&[1, 2]);
            let mut sealed = ring.seal(&SecretString::from(secret.clone()), "row 1").unwrap();
            let opened = ring.open(&sealed, "row 1").unwrap();
            proptest::prop_assert_eq!(opened.expose_secret(), secret);
            let at = at.index(sealed.len());
            sealed[at] ^= 1u8 << bit;
            proptest::prop_assert!(ring.open(&sealed, "row 1").is_err());
            proptest::prop_assert!(ring.open(&other, "row 1").is_err());
        }
    }

    #[test]
    fn refuses_keys_of_another_length() {
        let short = SecretSlice::from(vec![1u8; 31]);
        assert_eq!(
            Keyring::new(&[short]).unwrap_err().reason(),
            Reason::SecretKeyInvalid
        );
        assert!(Keyring::new(&[]).is_err());
    }
}
