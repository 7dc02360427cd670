//! The port behind which servers come from somewhere.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Result, engine::Engine, version::Version};

/// What a provider needs to know of one server. Every value in it was committed to
/// the metadata before an effect uses it.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// Identity of the server; names its directories.
    pub uid: Uuid,
    /// Version that it runs.
    pub version: Version,
    /// Host that it lives on, for the local provider.
    pub host: Uuid,
    /// TCP port.
    pub port: u16,
    /// PostgreSQL settings of the user, by name.
    pub parameters: BTreeMap<String, String>,
    /// Made from a template, and careless of the disk.
    pub ephemeral: bool,
    /// Password of `howdah_admin`, used when it is initialised.
    pub admin_password: SecretString,
    /// PostgreSQL's system identifier once it is known; what is found must match.
    pub system_identifier: Option<u64>,
    /// Fencing token of the worker, part of the names of unfinished files.
    pub token: i64,
}

/// What became of a request to start a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It was down and was started now.
    Now,
    /// It ran before.
    Before,
}

/// How far a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// There is no data directory.
    Missing,
    /// There is a data directory, and no process.
    Stopped,
    /// Its process runs and takes connections.
    Running,
}

/// What becomes of the data of a server that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposal {
    /// It stays in the trash for its time.
    Trash,
    /// It is deleted, with what the trash holds of that server.
    Delete,
}

/// A server whose data is on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Present {
    /// The server.
    pub uid: Uuid,
    /// Whether a process works in its data directory.
    pub running: bool,
}

/// Howdah's own role on every server; a superuser.
pub const ADMIN: &str = "howdah_admin";

/// Where a server can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Host name or address for clients.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Directory of the Unix socket, the way Howdah itself takes on the same host.
    pub socket_directory: Option<PathBuf>,
    /// Whether it speaks TLS.
    #[serde(default)]
    pub tls: bool,
}

/// A source of PostgreSQL servers.
///
/// Each method is idempotent, may be dropped at any await and may run twice at the
/// same time: what it began it finishes or finds, under its own lock.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Its name, as in `Server.provider`.
    fn name(&self) -> &'static str;

    /// The installations at hand, newest first.
    async fn engines(&self) -> Result<Vec<Engine>>;

    /// Checks `parameters` against the catalogue of `version`.
    ///
    /// # Errors
    /// PARAMETER_INVALID, PARAMETER_RESERVED.
    async fn check_parameters(
        &self,
        version: Version,
        parameters: &BTreeMap<String, String>,
    ) -> Result<()>;

    /// Makes the data directory, if it is not there, and answers its system
    /// identifier.
    async fn initialize(&self, server: &ServerSpec) -> Result<u64>;

    /// Writes the settings that Howdah owns. They take effect at the next start.
    async fn configure(&self, server: &ServerSpec) -> Result<()>;

    /// Starts the server, or finds that it runs, and waits until it takes
    /// connections.
    async fn start(&self, server: &ServerSpec) -> Result<Started>;

    /// Stops the server ("fast"), or finds that it is stopped.
    async fn stop(&self, server: &ServerSpec) -> Result<()>;

    /// Stops a server that is going to be deleted, whatever it is doing. One that has not
    /// stopped within `patience` may be killed: it recovers as after a crash, and what is
    /// not logged is lost.
    async fn stop_at_any_cost(&self, server: &ServerSpec, patience: Duration) -> Result<()>;

    /// Looks how far the server is, and that it is the one on record.
    async fn inspect(&self, server: &ServerSpec) -> Result<Presence>;

    /// Takes the data of a stopped server away, or finds that it is gone.
    async fn remove(&self, server: &ServerSpec, disposal: Disposal) -> Result<()>;

    /// Returns when a running server's process has ended.
    async fn ended(&self, server: &ServerSpec) -> Result<()>;

    /// Where the server of that identity and port can be reached.
    fn address(&self, server: Uuid, port: u16) -> Address;

    /// The servers whose data is on this host, whether a record knows them or not.
    async fn present(&self) -> Result<Vec<Present>>;

    /// Deletes what has been in the trash for its time.
    async fn empty_trash(&self) -> Result<()>;
}
