//! Servers on this machine.

use std::{borrow::Cow, fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{
    Problem, duration, places,
    problem::{bound, require},
};

/// First port that Linux may give to outgoing connections, and so take from us.
const EPHEMERAL: u16 = 32_768;

/// Longest run directory in bytes: below it lie a directory per server and
/// `.s.PGSQL.NNNNN`, and a socket's path ends at 107.
const MAX_RUN_DIRECTORY: usize = 48;

/// Servers on this machine, by the provider `local`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Local {
    /// Directory of the servers' data. Processes with the same one are one host.
    #[serde(skip_serializing_if = "places::unset")]
    pub root: PathBuf,
    /// Directories with the programs of a PostgreSQL, looked at before the usual
    /// places.
    pub engine_directories: Vec<PathBuf>,
    /// Whether the usual places are looked at too; `false` leaves
    /// `local.engine_directories` alone.
    pub system_engines: bool,
    /// User that servers run as when Howdah is root.
    pub run_as: String,
    /// TCP ports for servers, below 32768.
    pub ports: PortRange,
    /// IP addresses that servers listen on.
    pub listen_addresses: Vec<IpAddr>,
    /// Host name or address that clients are told to connect to.
    pub advertise_host: String,
    /// PEM file with the servers' certificate and its chain. None: no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with the certificate's private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// Directory of the servers' Unix sockets, at most 48 bytes long.
    #[serde(skip_serializing_if = "places::unset")]
    pub run_directory: PathBuf,
    /// How long a deleted instance can be undeleted.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub purge_delay: Duration,
    /// How long the data of an instance whose purge time came stays in the trash.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub trash_retention: Duration,
}

impl Default for Local {
    fn default() -> Self {
        const WEEK: Duration = Duration::from_secs(7 * 86_400);
        Self {
            root: PathBuf::new(),
            engine_directories: Vec::new(),
            system_engines: true,
            run_as: "postgres".into(),
            ports: PortRange {
                first: 20_000,
                last: 29_999,
            },
            listen_addresses: vec![IpAddr::from([127, 0, 0, 1])],
            advertise_host: "127.0.0.1".into(),
            tls_certificate: None,
            tls_key: None,
            run_directory: PathBuf::new(),
            purge_delay: WEEK,
            trash_retention: WEEK,
        }
    }
}

impl Local {
    /// Whether other machines reach the servers, and their passwords the network, in
    /// the open.
    pub(super) fn lets_passwords_out(&self) -> bool {
        let wide = self.listen_addresses.iter().any(|at| !at.is_loopback());
        wide && self.tls_certificate.is_none()
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        for (key, value) in [
            ("local.purge_delay", self.purge_delay),
            ("local.trash_retention", self.trash_retention),
        ] {
            bound(problems, key, value, &duration::KEPT);
        }
        let mut require = |holds, key, message| require(problems, holds, key, message);
        require(!self.run_as.is_empty(), "local.run_as", "must not be empty");
        require(
            self.run_as != "root" && self.run_as != "0",
            "local.run_as",
            "PostgreSQL refuses to run as root",
        );
        require(
            !self.listen_addresses.is_empty(),
            "local.listen_addresses",
            "must name an address",
        );
        require(
            !self.advertise_host.trim().is_empty(),
            "local.advertise_host",
            "must not be empty",
        );
        require(
            self.tls_certificate.is_some() == self.tls_key.is_some(),
            "local.tls_key",
            "goes with local.tls_certificate, and that with it",
        );
        require(
            self.run_directory.as_os_str().len() <= MAX_RUN_DIRECTORY,
            "local.run_directory",
            "must have at most 48 bytes, since paths of Unix sockets end at 107",
        );
    }
}

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// First port, 1024 or more.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// Last port, 32767 or less.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no range of ports such as 20000-29999");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let first: u16 = first.trim().parse().map_err(|_| wrong())?;
        let last: u16 = last.trim().parse().map_err(|_| wrong())?;
        if first < 1024 || last >= EPHEMERAL || first > last {
            return Err(format!(
                "`{text}` must rise and lie from 1024 to 32767, below the ports of outgoing \
                 connections"
            ));
        }
        Ok(Self { first, last })
    }
}

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

impl JsonSchema for PortRange {
    fn schema_name() -> Cow<'static, str> {
        "PortRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+-[0-9]+$" })
    }
}
