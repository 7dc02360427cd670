//! Certificates of servers.

use std::{fs, path::Path};

/// An authority that signs the certificates of `localhost`.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: rcgen::Issuer::new(params, key),
            pem,
        }
    }

    /// Writes `server.pem` and `server.key` for `localhost`.
    pub fn issue(&self, dir: &Path) {
        self.write(dir, |_| ());
    }

    /// The same with a certificate whose time is over.
    pub fn issue_expired(&self, dir: &Path) {
        self.write(dir, |leaf| {
            leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
            leaf.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
    }

    fn write(&self, dir: &Path, change: impl FnOnce(&mut rcgen::CertificateParams)) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        change(&mut leaf);
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        fs::write(dir.join("server.pem"), leaf.pem()).unwrap();
        fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
    }
}

/// Writes `server.pem` and `server.key` for `localhost`, and `ca.pem`, which it answers.
pub fn certificates(dir: &Path) -> String {
    let authority = Authority::new();
    authority.issue(dir);
    fs::write(dir.join("ca.pem"), &authority.pem).unwrap();
    authority.pem
}
