//! Databases of an instance and the roles that own them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use uuid::Uuid;

use super::{Result, instance::etag, name::DatabaseName, postgres::PostgresName, states::states};

states! {
    /// Where a database stands.
    State {
        /// Being made.
        Creating = "CREATING",
        /// Exists.
        Ready = "READY",
        /// Being dropped.
        Deleting = "DELETING",
        /// Its creation failed.
        Failed = "FAILED",
    }
}

/// A database of an instance.
#[derive(Clone, Debug)]
pub struct Database {
    /// Resource name.
    pub name: DatabaseName,
    /// Unique id, never reused.
    pub uid: Uuid,
    /// Unique id of the instance.
    pub instance_uid: Uuid,
    /// Counts the changes of the record; the etag is made of it.
    pub revision: i64,
    /// Labels of the user.
    pub labels: BTreeMap<String, String>,
    /// Notes of the user's tools.
    pub annotations: BTreeMap<String, String>,
    /// Name for people.
    pub display_name: String,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it last changed.
    pub update_time: DateTime<Utc>,
    /// Where it stands.
    pub state: State,
    /// Whether an operation is under way on it.
    pub reconciling: bool,
    /// Name in PostgreSQL.
    pub postgresql_name: PostgresName,
    /// Role that owns it.
    pub owner: PostgresName,
    /// Character set encoding.
    pub encoding: String,
    /// Locale provider, empty for the instance's.
    pub locale_provider: String,
    /// Locale, empty for the instance's.
    pub locale: String,
    /// Most connections at once, 0 for no limit.
    pub connection_limit: i32,
    /// Refuses deletion without force.
    pub deletion_protection: bool,
}

impl Database {
    /// The etag of the present record.
    #[must_use]
    pub fn etag(&self) -> String {
        etag(self.uid, self.revision)
    }
}

/// The owner of a database when the caller names none: `{database}_user`.
///
/// # Errors
/// NAME_TOO_LONG: it is never truncated.
pub fn default_owner(database: &PostgresName) -> Result<PostgresName> {
    PostgresName::parse(&format!("{database}_user"), "database.owner")
}

/// How to connect to a database.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database name in PostgreSQL.
    pub database: PostgresName,
    /// Role to log in as.
    pub user: PostgresName,
    /// Its password.
    pub password: SecretString,
    /// TLS mode in libpq's words.
    pub sslmode: &'static str,
}
