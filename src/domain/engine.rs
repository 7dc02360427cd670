//! PostgreSQL installations.

use std::path::PathBuf;

use super::version::{Version, Wanted};

/// Programs that Howdah uses.
pub const TOOLS: &[&str] = &[
    "initdb",
    "pg_basebackup",
    "pg_controldata",
    "pg_ctl",
    "pg_dump",
    "pg_dumpall",
    "pg_resetwal",
    "pg_restore",
    "postgres",
    "psql",
];

/// Programs without which no instance can be made.
pub const REQUIRED_TOOLS: &[&str] = &["initdb", "pg_ctl", "postgres"];

/// Oldest major version that instances are made of: the oldest that the PostgreSQL
/// project maintains (<https://www.postgresql.org/support/versioning/>).
pub const OLDEST_MAJOR: u16 = 15;

/// A PostgreSQL installation and what it can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Provider that offers it.
    pub provider: &'static str,
    /// Its version.
    pub version: Version,
    /// Directory of its programs.
    pub directory: PathBuf,
    /// Whether it was built with TLS.
    pub tls: bool,
    /// Whether it was built with ICU.
    pub icu: bool,
    /// Names of the extensions that come with it, sorted.
    pub extensions: Vec<String>,
    /// Those of [`TOOLS`] that it has, sorted.
    pub tools: Vec<String>,
}

impl Engine {
    /// Those of [`TOOLS`] that it lacks, sorted.
    #[must_use]
    pub fn missing_tools(&self) -> Vec<String> {
        let missing = TOOLS
            .iter()
            .filter(|tool| !self.tools.iter().any(|have| have == *tool));
        missing.map(|tool| (*tool).to_owned()).collect()
    }

    /// Whether an instance can be made from it.
    #[must_use]
    pub fn usable(&self) -> bool {
        let has = |tool: &&str| self.tools.iter().any(|have| have == tool);
        self.version.major >= OLDEST_MAJOR && REQUIRED_TOOLS.iter().all(has)
    }
}

/// The newest usable engine that is what `wanted` asks for.
#[must_use]
pub fn newest(engines: &[Engine], wanted: Wanted) -> Option<&Engine> {
    let fitting = engines
        .iter()
        .filter(|engine| engine.usable() && wanted.matches(engine.version));
    fitting.max_by_key(|engine| engine.version)
}
