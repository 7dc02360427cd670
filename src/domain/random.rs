//! Where randomness comes from: unique ids and passwords.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;
use uuid::{Builder, Uuid};

use super::{Error, Result};

/// A source of unpredictable bytes.
pub trait Random: Send + Sync {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// When the source fails, which ends whatever needed it.
    fn fill(&self, bytes: &mut [u8]) -> Result<()>;

    /// A new random UUID (version 4).
    ///
    /// # Errors
    /// As [`Random::fill`].
    fn uuid(&self) -> Result<Uuid> {
        let mut bytes = [0; 16];
        self.fill(&mut bytes)?;
        Ok(Builder::from_random_bytes(bytes).into_uuid())
    }

    /// A password of 32 characters with 192 bits of entropy, of letters, digits,
    /// `-` and `_`: it needs no escaping in a URI or a shell.
    ///
    /// # Errors
    /// As [`Random::fill`].
    fn password(&self) -> Result<SecretString> {
        let mut bytes = [0; 24];
        self.fill(&mut bytes)?;
        Ok(SecretString::from(URL_SAFE_NO_PAD.encode(bytes)))
    }
}

/// The operating system's random source.
#[derive(Clone, Debug, Default)]
pub struct SystemSource(SystemRandom);

impl Random for SystemSource {
    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        self.0
            .fill(bytes)
            .map_err(|_| Error::internal("the random source failed"))
    }
}
