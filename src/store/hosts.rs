//! Hosts: machines that run servers of the local provider.

use uuid::Uuid;

use super::{Store, Tx, fault::Measured};
use crate::domain::{Error, Reason, Result, version::Version};

impl Store {
    /// The id of the metadata: from its making on, also after a restore.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn metadata_id(&self) -> Result<Uuid> {
        sqlx::query_scalar!("select id from metadata")
            .fetch_one(&self.pool)
            .named("hosts.metadata_id")
            .await
    }

    /// Name of a host, as reported by its operating system.
    ///
    /// # Errors
    /// HOST_NOT_FOUND; METADATA_UNAVAILABLE.
    pub async fn host_name(&self, id: Uuid) -> Result<String> {
        let found = sqlx::query_scalar!("select name from hosts where id = $1", id)
            .fetch_optional(&self.pool)
            .named("hosts.host_name")
            .await?;
        found.ok_or_else(not_found)
    }

    /// Records the PostgreSQL versions that a host can create servers with.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn set_host_versions(&self, id: Uuid, versions: &[Version]) -> Result<()> {
        let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
        sqlx::query!(
            "update hosts set versions = $2 where id = $1",
            id,
            &versions
        )
        .execute(&self.pool)
        .named("hosts.set_host_versions")
        .await?;
        Ok(())
    }

    /// The PostgreSQL versions that a host can create servers with.
    ///
    /// # Errors
    /// HOST_NOT_FOUND; METADATA_UNAVAILABLE.
    pub async fn host_versions(&self, id: Uuid) -> Result<Vec<Version>> {
        let found = sqlx::query_scalar!("select versions from hosts where id = $1", id)
            .fetch_optional(&self.pool)
            .named("hosts.host_versions")
            .await?;
        let versions = found.ok_or_else(not_found)?;
        // A version that this release cannot parse was written by another release.
        let known = versions.iter().filter_map(|version| version.parse().ok());
        Ok(known.collect())
    }
}

impl Tx {
    /// Whether a host is gone: none of its processes was seen for a minute. An unknown host is
    /// not gone.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn host_is_gone(&mut self, host: Uuid) -> Result<bool> {
        sqlx::query_scalar!(
            r#"select exists (select from hosts_gone where id = $1) as "gone!""#,
            host
        )
        .fetch_one(self.connection())
        .named("hosts.host_is_gone")
        .await
    }
}

/// The error for a host of which no process has ever served.
pub(super) fn not_found() -> Error {
    Error::new(Reason::HostNotFound, "the host is not known").with_field("instance.local.host")
}
