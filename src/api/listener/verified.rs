//! Whether the certificate that a client has shown is still accepted.
//!
//! A handshake verifies the certificate once, and a connection can outlive it. It is
//! therefore verified again when a certificate of its chain has expired, and when other
//! TLS files were loaded.

use std::{future::pending, sync::Arc, time::Duration};

use rustls::{
    Error,
    pki_types::{CertificateDer, UnixTime},
    server::danger::ClientCertVerifier,
};
use tokio::{sync::watch, time::sleep};

use crate::{
    auth::certificate,
    domain::clock::{Clock as _, SystemClock},
};

use super::tls::Loaded;

/// Longest pause between two looks at the clock, which somebody may set.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The certificates that a client has shown: its own, and those that lead to its CA.
#[derive(Debug)]
pub(super) struct Verified {
    chain: Vec<CertificateDer<'static>>,
    /// What certificates are verified by. The value of the handshake was seen.
    loaded: watch::Receiver<Loaded>,
}

impl Verified {
    pub(super) const fn new(
        chain: Vec<CertificateDer<'static>>,
        loaded: watch::Receiver<Loaded>,
    ) -> Self {
        Self { chain, loaded }
    }

    /// Waits until the certificate is not accepted any more, and says why.
    pub(super) async fn refused(&mut self) -> Error {
        loop {
            let end = next_end(&self.chain, seconds());
            tokio::select! {
                () = until(end) => {}
                // Without a sender the listener ends, and this connection with it.
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

/// The first second in which the next certificate of the chain has expired.
fn next_end(chain: &[CertificateDer<'_>], now: u64) -> Option<u64> {
    let ends = chain.iter().filter_map(|der| certificate::not_after(der));
    // The last second of a certificate belongs to its time.
    ends.map(|end| end.saturating_add(1))
        .filter(|end| *end > now)
        .min()
}

/// Waits until the clock shows that second; for ever without one.
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
