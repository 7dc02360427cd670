//! Checks files that the configuration names: certificates and keys.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::parse_x509_certificate;

use crate::config::{Config, Finding, Surroundings};

/// Seconds before the expiry of a certificate at which it causes a warning.
const SOON: i64 = 14 * 86_400;

pub(super) fn check(config: &Config, surroundings: &Surroundings) -> Vec<Finding> {
    let tls = &config.tls;
    let now = surroundings.now.timestamp();
    let certificate = |check, path| certificates(check, path, now);
    let mut findings = Vec::new();
    findings.extend(
        tls.certificate
            .as_deref()
            .map(|p| certificate("TLS certificate", p)),
    );
    findings.extend(
        tls.client_ca
            .as_deref()
            .map(|p| certificate("TLS client CA", p)),
    );
    findings.extend(tls.key.as_deref().map(key));
    let secrets = [&config.secret_key_file, &config.secret_key_previous_file];
    for path in secrets.into_iter().flatten() {
        findings.push(private("secret key", path));
    }
    findings
}

/// Checks that a file is readable, contains certificates, and does not expire soon.
fn certificates(check: &str, path: &Path, now: i64) -> Finding {
    let shown = path.display();
    let read: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|found| found.collect());
    let found = match read {
        Ok(found) if !found.is_empty() => found,
        Ok(_) => return Finding::fail(check, format!("{shown} holds no certificate"), ""),
        Err(error) => {
            let message = format!("{shown} cannot be read: {error}");
            return Finding::fail(check, message, "see docs/configuration.md, TLS");
        }
    };
    let ends: Option<Vec<i64>> = found.iter().map(|der| end(der)).collect();
    match ends.and_then(|ends| ends.into_iter().min()) {
        None => Finding::fail(check, format!("{shown} holds no X.509 certificate"), ""),
        Some(end) if end <= now => Finding::fail(
            check,
            format!("a certificate of {shown} has expired"),
            "renew it",
        ),
        Some(end) if end - now < SOON => {
            let days = (end - now) / 86_400;
            let message = format!("a certificate of {shown} expires in {days} days");
            Finding::warn(
                check,
                message,
                "renew it; it is read again when the file changes",
            )
        }
        Some(_) => Finding::ok(check, format!("{shown} can be read and is valid")),
    }
}

/// Expiry of a certificate, in seconds since 1970.
fn end(der: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn key(path: &Path) -> Finding {
    match PrivateKeyDer::from_pem_file(path) {
        Ok(_) => private("TLS key", path),
        // The error describes the format only, never the contents.
        Err(error) => Finding::fail(
            "TLS key",
            format!("{} holds no private key: {error}", path.display()),
            "see docs/configuration.md, TLS",
        ),
    }
}

/// Warns if other users can read a private file.
fn private(check: &str, path: &Path) -> Finding {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if metadata.mode() & 0o004 != 0 => Finding::warn(
            check,
            format!("{shown} can be read by every user of this machine"),
            format!("chmod o-rwx {shown}"),
        ),
        Ok(metadata) if metadata.mode() & 0o022 != 0 => Finding::warn(
            check,
            format!("{shown} can be replaced by others than its owner"),
            format!("chmod go-w {shown}"),
        ),
        Ok(_) => Finding::ok(check, format!("{shown} can be read, and not by everybody")),
        Err(error) => Finding::fail(check, format!("{shown} cannot be read: {error}"), ""),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::config::finding::Status;

    #[test]
    fn certificates_and_keys_are_looked_into() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = write("c.pem", &made.cert.pem());
        let end = end(made.cert.der()).unwrap();
        let at = |now| certificates("x", &certificate, now).status;
        assert_eq!(at(end - SOON - 1), Status::Ok);
        assert_eq!(at(end - SOON + 1), Status::Warn);
        assert_eq!(at(end), Status::Fail);
        let empty = write("empty.pem", "");
        assert_eq!(certificates("x", &empty, 0).status, Status::Fail);
        assert_eq!(key(&empty).status, Status::Fail);

        let path = write("k.pem", &made.signing_key.serialize_pem());
        let mode = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert_eq!(key(&path).status, Status::Warn);
        mode(0o620);
        assert_eq!(key(&path).status, Status::Warn);
        mode(0o600);
        assert_eq!(key(&path).status, Status::Ok);
    }
}
