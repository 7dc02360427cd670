//! TLS with certificates that are reloaded while the listener runs.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs as provider},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{
    fs,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_rustls::TlsAcceptor;

use crate::domain::{Error, Reason, Result};

use super::{Plain, Stream, Verified};

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// They may. A certificate that is shown is verified.
    Optional,
    /// They must. A connection without a certificate is refused.
    Required,
}

/// PEM files for TLS. They are read again when they change, and on SIGHUP.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The server's certificate, with its chain up to the CA.
    pub certificate: PathBuf,
    /// The server's private key.
    pub key: PathBuf,
    /// CAs of client certificates. Without them clients are not asked for a certificate.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must show a certificate, if `client_ca` is set.
    pub client_auth: ClientAuth,
}

/// The current TLS configuration of a listener.
#[derive(Debug)]
pub struct Certificates {
    files: Tls,
    /// The only protocol that is accepted, by its ALPN name.
    protocol: &'static [u8],
    current: watch::Sender<Loaded>,
    /// Fingerprint of the files that were loaded first.
    seen: Fingerprint,
}

/// The configuration that was made from the files.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    /// Configuration for handshakes.
    pub(super) config: Arc<ServerConfig>,
    /// Verifies the certificates of clients.
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

type Fingerprint = [u8; 32];

/// Contents of the files.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Certificates {
    /// Reads the files, and makes the configuration.
    ///
    /// # Errors
    /// CONFIG_INVALID when a file cannot be read, or when the files do not belong together.
    pub async fn load(files: Tls, protocol: &'static [u8]) -> Result<Self> {
        let contents = Contents::read(&files).await?;
        let loaded = contents.load(files.client_auth, protocol)?;
        Ok(Self {
            seen: contents.fingerprint(),
            current: watch::Sender::new(loaded),
            protocol,
            files,
        })
    }

    /// Performs a handshake. Returns the stream, and the certificate that the client has shown.
    ///
    /// # Errors
    /// When the handshake fails, or the client does not speak the protocol.
    pub async fn handshake(&self, stream: Plain) -> io::Result<(Stream, Option<Verified>)> {
        let (loaded, next) = self.current();
        let stream = TlsAcceptor::from(loaded.config).accept(stream).await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(self.protocol) {
            let message = "the client does not name the protocol (ALPN)";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let chain = session.peer_certificates();
        let verified = chain.and_then(|chain| Verified::new(chain, next));
        Ok((Stream::Tls(Box::new(stream)), verified))
    }

    /// The current configuration, and a receiver for later ones that has seen the current one.
    fn current(&self) -> (Loaded, watch::Receiver<Loaded>) {
        let mut receiver = self.current.subscribe();
        let loaded = receiver.borrow_and_update().clone();
        (loaded, receiver)
    }

    /// Reloads changed files until it is dropped: at each interval and on SIGHUP. It compares
    /// contents and not times, because files that are exchanged by symbolic links may keep their
    /// times.
    pub async fn watch(&self, every: Duration) {
        let mut ticks = interval(every.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            tracing::error!("SIGHUP cannot be watched, TLS files are not reloaded");
            return;
        };
        // Fingerprint of the last contents, whether they were valid or not, or of the last error.
        let mut seen = self.seen;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = hangup.recv() => {}
            }
            self.reload(&mut seen).await;
        }
    }

    /// Uses changed files. Invalid files are logged once, and the configuration stays as it is.
    async fn reload(&self, seen: &mut Fingerprint) {
        let contents = Contents::read(&self.files).await;
        let fresh = match &contents {
            Ok(contents) => contents.fingerprint(),
            Err(error) => fingerprint(&[error.message().as_bytes()]),
        };
        if *seen == fresh {
            return;
        }
        *seen = fresh;
        match contents.map(|contents| contents.load(self.files.client_auth, self.protocol)) {
            Ok(Ok(loaded)) => {
                self.current.send_replace(loaded);
                tracing::info!("TLS files were reloaded");
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "TLS files are broken, the former ones stay in use");
            }
            // The files may be in the middle of an exchange, so this is only a warning.
            Err(error) => tracing::warn!(%error, "TLS files were not read"),
        }
    }
}

impl Contents {
    async fn read(files: &Tls) -> Result<Self> {
        let client_ca = match &files.client_ca {
            Some(path) => Some(read(path).await?),
            None => None,
        };
        Ok(Self {
            certificate: read(&files.certificate).await?,
            key: read(&files.key).await?,
            client_ca,
        })
    }

    fn fingerprint(&self) -> Fingerprint {
        let ca = self.client_ca.as_deref().unwrap_or_default();
        fingerprint(&[&self.certificate, &self.key, ca])
    }

    fn load(&self, client_auth: ClientAuth, protocol: &[u8]) -> Result<Loaded> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| broken("key", error))?;
        let provider = Arc::new(provider::default_provider());
        let verifier = self.verifier(client_auth, &provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| broken("protocol versions", error))?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(chain, key)
            .map_err(|error| broken("certificate and key", error))?;
        config.alpn_protocols = vec![protocol.to_vec()];
        if self.client_ca.is_some() {
            // A resumed session would bring the client's certificate without verifying it again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Loaded {
            config: Arc::new(config),
            verifier,
        })
    }

    fn verifier(
        &self,
        client_auth: ClientAuth,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>> {
        let Some(pem) = &self.client_ca else {
            return Ok(WebPkiClientVerifier::no_client_auth());
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem)? {
            roots
                .add(certificate)
                .map_err(|error| broken("client CA", error))?;
        }
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let builder = match client_auth {
            ClientAuth::Optional => builder.allow_unauthenticated(),
            ClientAuth::Required => builder,
        };
        builder.build().map_err(|error| broken("client CA", error))
    }
}

fn fingerprint(parts: &[&[u8]]) -> Fingerprint {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

async fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).await.map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        Error::new(Reason::ConfigInvalid, message)
    })
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| broken("certificate", error))?;
    if chain.is_empty() {
        let message = "TLS: a file holds no certificate";
        return Err(Error::new(Reason::ConfigInvalid, message));
    }
    Ok(chain)
}

fn broken(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Reason::ConfigInvalid, format!("TLS: {what}: {error}"))
}
