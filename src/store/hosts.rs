//! Machines that run servers of the provider `local`.

use uuid::Uuid;

use super::{Store, fault::Measured};
use crate::domain::Result;

impl Store {
    /// Records that a process serves for this host now.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn see_host(&self, id: Uuid, name: &str) -> Result<()> {
        sqlx::query!(
            "insert into hosts (id, name) values ($1, $2)
             on conflict (id) do update set name = excluded.name, seen_time = now()",
            id,
            name,
        )
        .execute(&self.pool)
        .named("hosts.see_host")
        .await?;
        Ok(())
    }

    /// Whether such a host is known, and how long it has not been seen, in seconds.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn host_silence(&self, id: Uuid) -> Result<Option<f64>> {
        sqlx::query_scalar!(
            r#"select extract(epoch from now() - seen_time)::float8 as "silence!" from hosts where id = $1"#,
            id,
        )
        .fetch_optional(&self.pool)
        .named("hosts.host_silence")
        .await
    }
}
