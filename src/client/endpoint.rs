//! Prepares the endpoint of a client, with its TLS files.

use std::{fs, path::Path, time::Duration};

use secrecy::{ExposeSecret, SecretSlice};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::{Error, Options, Result};

/// Idle time after which the connection is pinged.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Default port of a server.
const DEFAULT_PORT: u16 = 7717;

/// Parses the endpoint, and reads the TLS files.
pub(super) fn prepare(text: &str, options: &Options) -> Result<Endpoint> {
    let wants_tls = options.ca.is_some() || options.certificate.is_some();
    let uri = complete(text, wants_tls);
    let malformed = || {
        Error::Options(format!(
            "`{text}` is no endpoint such as 127.0.0.1:7717, https://HOST:PORT or unix:PATH"
        ))
    };
    if !is_unix(&uri) && !has_host(&uri) {
        return Err(malformed());
    }
    if !is_unix(&uri) && !text.contains("://") && !has_port(&uri) {
        let message = format!("`{text}` names no port, such as {text}:{DEFAULT_PORT}");
        return Err(Error::Options(message));
    }
    let mut endpoint = Endpoint::from_shared(uri.clone()).map_err(|_| malformed())?;
    if uri.starts_with("https://") {
        endpoint = endpoint
            .tls_config(tls(options)?)
            .map_err(|error| Error::Options(format!("the TLS files do not fit: {error}")))?;
    } else if wants_tls {
        return Err(Error::Options(format!(
            "TLS files are given, but the endpoint `{text}` is not https"
        )));
    }
    endpoint
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_while_idle(true)
        .user_agent(concat!("howdah/", env!("CARGO_PKG_VERSION")))
        .map_err(|_| malformed())
}

/// Adds the scheme to an endpoint.
fn complete(text: &str, wants_tls: bool) -> String {
    if text.contains("://") || is_unix(text) {
        text.to_owned()
    } else if wants_tls {
        format!("https://{text}")
    } else {
        format!("http://{text}")
    }
}

fn is_unix(text: &str) -> bool {
    text.starts_with("unix:")
}

fn has_host(uri: &str) -> bool {
    uri.parse::<http::Uri>().is_ok_and(|uri| {
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        known && uri.host().is_some_and(|host| !host.is_empty())
    })
}

fn has_port(uri: &str) -> bool {
    uri.parse::<http::Uri>()
        .is_ok_and(|uri| uri.port_u16().is_some())
}

fn tls(options: &Options) -> Result<ClientTlsConfig> {
    let config = ClientTlsConfig::new();
    let config = match &options.ca {
        Some(ca) => config.ca_certificate(Certificate::from_pem(read(ca)?.expose_secret())),
        None => config.with_native_roots(),
    };
    match (&options.certificate, &options.key) {
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (read(certificate)?, read(key)?);
            let identity = Identity::from_pem(certificate.expose_secret(), key.expose_secret());
            Ok(config.identity(identity))
        }
        (None, None) => Ok(config),
        _ => Err(Error::Options(
            "a client certificate and its key go together".into(),
        )),
    }
}

fn read(path: &Path) -> Result<SecretSlice<u8>> {
    fs::read(path)
        .map(SecretSlice::from)
        .map_err(|error| Error::Options(format!("cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn endpoints_are_read_or_refused() {
        let plain = Options::default();
        for text in [
            "127.0.0.1:7717",
            "localhost:1",
            "http://[::1]:1",
            "unix:/tmp/s",
        ] {
            prepare(text, &plain).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        for text in [
            "",
            ":7717",
            "ftp://h:1",
            "http://",
            "h h:1",
            "h",
            "h:",
            "::1",
        ] {
            assert!(prepare(text, &plain).is_err(), "{text}");
        }
        let with_ca = Options {
            ca: Some("/nowhere.pem".into()),
            ..Options::default()
        };
        for text in ["http://h:1", "unix:/tmp/s", "h:1"] {
            assert!(prepare(text, &with_ca).is_err(), "{text}");
        }
        assert_eq!(complete("h:1", true), "https://h:1");
    }
}
