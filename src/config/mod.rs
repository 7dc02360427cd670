//! Settings of `howdah serve`: one file per section, with defaults and rules.
//!
//! A setting is a field of [`Config`] or of a section; its flag, its environment
//! variable, its place in the file and its help follow from the field alone
//! ([`settings`]). Strength: flag, environment, file, default.

mod arguments;
mod audit;
mod auth;
mod database;
pub mod duration;
pub mod finding;
mod listen;
mod load;
mod local;
mod log;
mod operations;
mod otlp;
mod places;
mod problem;
mod secret;
mod server;
pub mod settings;
mod tls;

use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub use self::{
    arguments::{BriefArguments, ServeArguments},
    audit::Audit,
    auth::Auth,
    database::Database,
    finding::Finding,
    listen::ListenAddress,
    load::{Loaded, Source, Surroundings, load},
    local::{Local, PortRange},
    log::{Log, LogFormat},
    operations::Operations,
    otlp::Otlp,
    problem::{Problem, error},
    secret::{SecretKey, SecretKeys},
    server::Server,
    tls::{ClientCertificates, Tls},
};
use crate::domain::Result;
/// The error of loading the settings and of what is started from them.
pub use crate::domain::{Error, Kind};

/// All settings of a process that serves.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the gRPC listener: `HOST:PORT` with port 0 for a free one, or
    /// `unix:PATH`. Not loopback: needs required client certificates or `insecure`.
    pub listen: ListenAddress<7717>,
    /// Address of the listener for metrics and health over plain HTTP, `HOST:PORT`. Not
    /// loopback: needs `insecure`.
    pub admin_listen: ListenAddress<7718>,
    /// Directory for everything that the process keeps; locked while it serves.
    #[serde(skip_serializing_if = "places::unset")]
    pub data_dir: PathBuf,
    /// URL of the metadata database, `postgres://...`. None: a PostgreSQL of its own
    /// in the data directory. A password may not be given on the command line.
    #[serde(
        serialize_with = "secret::redacted",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<secret::Text>")]
    pub database_url: Option<SecretString>,
    /// Takes calls from other machines without authentication.
    pub insecure: bool,
    /// Key that stored secrets are sealed with: 32 bytes in base64. Needed with
    /// `database_url`; without, a key is kept in the data directory.
    #[serde(
        serialize_with = "secret::redacted",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<secret::Text>")]
    pub secret_key: Option<SecretString>,
    /// File that holds the secret key, instead of `secret_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_file: Option<PathBuf>,
    /// The key before this one, or several with commas or white space between them,
    /// still taken to open what they sealed.
    #[serde(
        serialize_with = "secret::redacted",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<secret::Text>")]
    pub secret_key_previous: Option<SecretString>,
    /// File that holds the former secret keys, instead of `secret_key_previous`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_previous_file: Option<PathBuf>,
    /// TLS of the gRPC listener.
    pub tls: Tls,
    /// Who may do what.
    pub auth: Auth,
    /// Records of who did what.
    pub audit: Audit,
    /// What is logged and how.
    pub log: Log,
    /// Where traces and metrics are sent.
    pub otlp: Otlp,
    /// Limits of the gRPC listener.
    pub server: Server,
    /// Connections to the metadata database.
    pub database: Database,
    /// Execution of long operations.
    pub operations: Operations,
    /// Servers on this machine.
    pub local: Local,
    /// The secret keys as read from their settings or files.
    #[serde(skip)]
    #[schemars(skip)]
    pub secret_keys: SecretKeys,
}

impl Config {
    /// The settings of this process, from its command line, environment and file.
    ///
    /// # Errors
    /// CONFIG_INVALID, with everything that is wrong, a line each.
    pub fn load(arguments: &ServeArguments) -> Result<Self> {
        load(arguments, &Surroundings::of_process())
            .map(|loaded| loaded.config)
            .map_err(|problems| error(&problems))
    }

    /// Fills in what depends on the machine and on other settings.
    fn settle(&mut self, surroundings: &Surroundings, problems: &mut Vec<Problem>) {
        places::settle(self, surroundings, problems);
        self.secret_keys = secret::read_keys(self, problems);
    }

    /// Every rule that is broken by one setting's value or by several together.
    fn check(&self, problems: &mut Vec<Problem>) {
        listen::check(self, problems);
        auth::check(self, problems);
        self.audit.check(problems);
        secret::check_database_url(self, problems);
        self.tls.check(problems);
        self.log.check(problems);
        self.otlp.check(problems);
        self.server.check(problems);
        self.database.check(problems);
        self.operations.check(problems);
        self.local.check(problems);
    }
}

/// The JSON schema of the configuration file.
#[must_use]
pub fn schema() -> schemars::Schema {
    schemars::generate::SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<Config>()
}
