//! Identity in a client certificate.

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

const SPIFFE: &str = "spiffe://";
/// Longer identities are refused: they go into logs and idempotency records.
const MAX_IDENTITY: usize = 2048;

/// The identity that a verified certificate stands for: its SPIFFE URI, else its
/// subject. None if it has neither, or several SPIFFE URIs (an X.509-SVID has exactly
/// one, by the SPIFFE specification).
#[must_use]
pub fn identity(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let identity = match spiffe(&certificate)? {
        Some(uri) => uri,
        None => certificate.subject().to_string(),
    };
    (!identity.is_empty() && identity.len() <= MAX_IDENTITY).then_some(identity)
}

/// Its SPIFFE URI if it has one; None if it is no valid certificate of that kind.
fn spiffe(certificate: &X509Certificate<'_>) -> Option<Option<String>> {
    let Some(names) = certificate.subject_alternative_name().ok()? else {
        return Some(None);
    };
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SPIFFE) => Some((*uri).to_owned()),
            _ => None,
        });
    let first = uris.next();
    uris.next().is_none().then_some(first)
}
