//! Checks whether the certificate of a connected client is still accepted.
//!
//! A handshake verifies the certificate once, and the connection may last longer than the
//! certificate. So it is verified again when a certificate of its chain has expired, and when
//! other TLS files were loaded.

use std::{future::pending, sync::Arc, time::Duration};

use rustls::{
    Error,
    pki_types::{CertificateDer, UnixTime},
    server::danger::ClientCertVerifier,
};
use tokio::{sync::watch, time::sleep};

use crate::{
    auth::certificate::{Identity, not_after},
    domain::clock::{Clock as _, SystemClock},
};

use super::tls::Loaded;

/// Longest sleep between two looks at the clock, because the clock may be set.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The certificates that a client has shown: its own, and the chain to its CA.
#[derive(Debug)]
pub struct Verified {
    /// The client's own certificate comes first. Never empty.
    chain: Vec<CertificateDer<'static>>,
    /// Receives later configurations. The one of the handshake counts as seen.
    loaded: watch::Receiver<Loaded>,
}

impl Verified {
    /// None if the client has shown no certificate.
    pub(super) fn new(
        chain: &[CertificateDer<'static>],
        loaded: watch::Receiver<Loaded>,
    ) -> Option<Self> {
        let chain = chain.to_vec();
        (!chain.is_empty()).then_some(Self { chain, loaded })
    }

    /// The identity in the client's certificate.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let first = self.chain.first();
        first.map_or(Identity::Nobody, |der| Identity::read(der))
    }

    /// Waits until the certificate is not accepted any more, and returns the reason.
    pub async fn refused(&mut self) -> Error {
        loop {
            let end = next_end(&self.chain, seconds());
            tokio::select! {
                () = until(end) => {}
                // The channel is closed only when the listener ends, and then this connection ends
                // too.
                Ok(()) = self.loaded.changed() => {}
            }
            let verifier = Arc::clone(&self.loaded.borrow_and_update().verifier);
            if let Err(error) = verify(&*verifier, &self.chain, seconds()) {
                return error;
            }
        }
    }
}

fn verify(
    verifier: &dyn ClientCertVerifier,
    chain: &[CertificateDer<'_>],
    now: u64,
) -> Result<(), Error> {
    let Some((certificate, others)) = chain.split_first() else {
        return Err(Error::NoCertificatesPresented);
    };
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    verifier.verify_client_cert(certificate, others, now)?;
    Ok(())
}

/// The first second after the next expiry in the chain.
fn next_end(chain: &[CertificateDer<'_>], now: u64) -> Option<u64> {
    let ends = chain.iter().filter_map(|der| not_after(der));
    // A certificate is still valid in its last second.
    ends.map(|end| end.saturating_add(1))
        .filter(|end| *end > now)
        .min()
}

/// Waits until the clock shows that second; for ever if there is none.
async fn until(second: Option<u64>) {
    let Some(second) = second else {
        return pending().await;
    };
    while let Some(left) = second.checked_sub(seconds()).filter(|left| *left > 0) {
        sleep(Duration::from_secs(left).min(LONGEST_PAUSE)).await;
    }
}

/// The present time, in seconds since 1970.
fn seconds() -> u64 {
    SystemClock.now().timestamp().try_into().unwrap_or(0)
}
