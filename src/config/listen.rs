//! Addresses to listen on, and who may be let in there.

use std::{
    borrow::Cow,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{ClientCertificates, Config, Problem};

/// Longest path of a Unix socket in bytes (`sun_path` less its final zero).
const MAX_SOCKET_PATH: usize = 107;

/// Where a listener listens; by default on port `DEFAULT_PORT` of 127.0.0.1.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum ListenAddress<const DEFAULT_PORT: u16> {
    /// A TCP address; port 0 is a free one.
    Tcp(SocketAddr),
    /// A Unix socket at a path of at most 107 bytes.
    Unix(PathBuf),
}

impl<const DEFAULT_PORT: u16> ListenAddress<DEFAULT_PORT> {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl<const DEFAULT_PORT: u16> Default for ListenAddress<DEFAULT_PORT> {
    fn default() -> Self {
        Self::Tcp((Ipv4Addr::LOCALHOST, DEFAULT_PORT).into())
    }
}

impl<const DEFAULT_PORT: u16> fmt::Display for ListenAddress<DEFAULT_PORT> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl<const DEFAULT_PORT: u16> FromStr for ListenAddress<DEFAULT_PORT> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err("`unix:` lacks a path".into()),
                1..=MAX_SOCKET_PATH => Ok(Self::Unix(path.into())),
                _ => Err(format!(
                    "the path of a Unix socket has at most {MAX_SOCKET_PATH} bytes"
                )),
            };
        }
        // Binding must not depend on name resolution, but this one name is certain.
        let numeric = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        numeric
            .parse()
            .map(Self::Tcp)
            .map_err(|_| format!("`{text}` is no address such as 127.0.0.1:7717 or unix:PATH"))
    }
}

impl<const DEFAULT_PORT: u16> TryFrom<String> for ListenAddress<DEFAULT_PORT> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl<const DEFAULT_PORT: u16> From<ListenAddress<DEFAULT_PORT>> for String {
    fn from(address: ListenAddress<DEFAULT_PORT>) -> Self {
        address.to_string()
    }
}

impl<const DEFAULT_PORT: u16> JsonSchema for ListenAddress<DEFAULT_PORT> {
    fn schema_name() -> Cow<'static, str> {
        format!("ListenAddress{DEFAULT_PORT}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

impl Config {
    /// Whether who reaches the listener is let in without saying who it is. A Unix
    /// socket is for the user of the process alone, and the kernel says who calls.
    #[must_use]
    pub fn lets_anybody_in(&self) -> bool {
        let tcp = matches!(self.listen, ListenAddress::Tcp(_));
        tcp && self.tls.client_certificates != ClientCertificates::Required
    }
}

/// Refuses addresses that others can reach while nobody has to say who they are.
pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    if matches!(config.admin_listen, ListenAddress::Unix(_)) {
        let message = "must be a TCP address such as 127.0.0.1:7718: Prometheus and probes read it";
        problems.push(Problem::new("admin_listen", message));
    }
    if config.insecure {
        return;
    }
    let authenticated =
        config.tls.enabled() && config.tls.client_certificates == ClientCertificates::Required;
    if !config.listen.is_local() && !authenticated {
        problems.push(Problem::new(
            "listen",
            "other machines could call this address without saying who they are: set \
             tls.certificate, tls.key, tls.client_ca and tls.client_certificates = \
             \"required\", or insecure",
        ));
    }
    if config.local.lets_passwords_out() {
        problems.push(Problem::new(
            "local.listen_addresses",
            "other machines would reach servers without TLS: set local.tls_certificate and \
             local.tls_key, or insecure",
        ));
    }
    // It speaks plain HTTP.
    if !config.admin_listen.is_local() {
        problems.push(Problem::new(
            "admin_listen",
            "other machines could read metrics from this address without saying who they are: \
             listen on loopback, or set insecure",
        ));
    }
}
