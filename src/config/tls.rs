//! TLS of the gRPC listener.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Problem, duration,
    problem::{bound, require},
};

/// TLS of the gRPC listener. Files are read again when they change.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the listener's certificate and its chain. None: no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// PEM file with the certificate's private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// PEM file with the authorities that client certificates must come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    /// Whether clients show a certificate.
    pub client_certificates: ClientCertificates,
    /// Longest TLS handshake; a slower client is cut off.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub handshake_timeout: Duration,
    /// Longest time that calls may still last on a connection whose client certificate
    /// has expired or is not accepted any more.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub certificate_grace: Duration,
}

/// Bounds of `certificate_grace`.
const CERTIFICATE_GRACE: RangeInclusive<Duration> = Duration::ZERO..=duration::HOUR;

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not asked for one.
    #[default]
    Off,
    /// They may show one; without, they are anonymous.
    Optional,
    /// Without one there is no connection.
    Required,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certificate: None,
            key: None,
            client_ca: None,
            client_certificates: ClientCertificates::Off,
            handshake_timeout: Duration::from_secs(10),
            certificate_grace: Duration::from_secs(60),
        }
    }
}

impl Tls {
    /// Whether the listener speaks TLS.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.certificate.is_some()
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        bound(
            problems,
            "tls.handshake_timeout",
            self.handshake_timeout,
            &duration::WAIT,
        );
        bound(
            problems,
            "tls.certificate_grace",
            self.certificate_grace,
            &CERTIFICATE_GRACE,
        );
        let mut require = |holds, key, message| require(problems, holds, key, message);
        let (certificate, key) = (self.certificate.is_some(), self.key.is_some());
        require(
            key || !certificate,
            "tls.key",
            "needed with tls.certificate",
        );
        require(
            certificate || !key,
            "tls.certificate",
            "needed with tls.key",
        );
        let asks = self.client_certificates != ClientCertificates::Off;
        require(
            certificate || !asks,
            "tls.certificate",
            "needed to ask for client certificates",
        );
        require(
            asks == self.client_ca.is_some(),
            "tls.client_ca",
            "goes with tls.client_certificates = \"optional\" or \"required\", and they with it",
        );
    }
}
