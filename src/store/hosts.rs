//! Machines that run servers of the provider `local`.

use uuid::Uuid;

use super::{Store, Tx, fault::Measured};
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
}

impl Tx {
    /// Whether nothing is to be expected of a host: it has been silent for a minute.
    /// Not so of a host that is not known.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn host_is_gone(&mut self, host: Uuid) -> Result<bool> {
        sqlx::query_scalar!(r#"select host_gone_time($1) is not null as "gone!""#, host)
            .fetch_one(self.connection())
            .named("hosts.host_is_gone")
            .await
    }
}
