//! SCRAM-SHA-256 verifiers, so that a clear password never reaches a server
//! (and its log) in `CREATE ROLE ... PASSWORD`.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};

/// PostgreSQL's own number of iterations (`scram_iterations`, from 16 on a
/// setting).
pub const ITERATIONS: NonZeroU32 = match NonZeroU32::new(4096) {
    Some(n) => n,
    None => NonZeroU32::MIN,
};

/// The verifier that PostgreSQL stores in `pg_authid.rolpassword`:
/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` (RFC 5802).
///
/// The salt must be random and fresh; PostgreSQL uses 16 bytes.
pub fn verifier(password: &SecretString, salt: &[u8], iterations: NonZeroU32) -> String {
    let clear = password.expose_secret();
    // Like the server: a password that SASLprep refuses is taken as it is.
    let prepared = stringprep::saslprep(clear).unwrap_or(std::borrow::Cow::Borrowed(clear));
    let mut salted = [0u8; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        salt,
        prepared.as_bytes(),
        &mut salted,
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let stored = digest::digest(&digest::SHA256, hmac::sign(&key, b"Client Key").as_ref());
    let server = hmac::sign(&key, b"Server Key");
    format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored),
        STANDARD.encode(server)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_rust_postgres() {
        // From the tests of postgres-protocol's `password::scram_sha_256_salt`.
        let salt = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        assert_eq!(
            verifier(&SecretString::from("secret"), &salt, ITERATIONS),
            "SCRAM-SHA-256$4096:AQIDBAUGBwgJCgsMDQ4PEA==$8rrDg00OqaiWXJ7p+sCgHEIaBSHY89ZJl3mfIsf32oY=:05L1f+yZbiN8O0AnO40Og85NNRhvzTS57naKRWCcsIA="
        );
    }

    #[test]
    fn prepares_like_the_server() {
        let salt = [7; 16];
        let of = |s: &str| verifier(&SecretString::from(s), &salt, ITERATIONS);
        // RFC 4013: a soft hyphen maps to nothing; a bare control character
        // is prohibited and left alone.
        assert_eq!(of("I\u{ad}X"), of("IX"));
        assert_ne!(of("a\u{7}"), of("a"));
    }
}
