//! Who a certificate makes a caller, for those who write bindings.

use std::{fs::File, io::Read as _, path::Path};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    auth::certificate::Identity,
    domain::{Error, Reason, Result},
};

/// Most bytes of the file.
const MOST: u64 = 1024 * 1024;

/// The principal of a client certificate, as bindings have it: `cert:CN=ada,O=ops`. In a
/// PEM file with a chain the client's own certificate is the first one.
///
/// # Errors
/// CONFIG_INVALID when the file cannot be read, holds no certificate, or one without an
/// identity.
pub fn principal(path: &Path) -> Result<String> {
    let refused =
        |why: String| Error::new(Reason::ConfigInvalid, format!("{}: {why}", path.display()));
    let mut pem = Vec::new();
    let file = File::open(path).map_err(|error| refused(error.to_string()))?;
    let read = file.take(MOST).read_to_end(&mut pem);
    read.map_err(|error| refused(error.to_string()))?;
    let certificate = CertificateDer::from_pem_slice(&pem)
        .map_err(|_| refused("there is no certificate in it, in PEM form".to_owned()))?;
    match Identity::read(&certificate) {
        Identity::Of(identity) => Ok(format!("cert:{identity}")),
        Identity::Nobody => Err(refused(
            "the certificate names nobody: it has neither a subject nor one valid SPIFFE URI"
                .to_owned(),
        )),
    }
}
