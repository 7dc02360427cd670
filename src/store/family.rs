//! Locks several operations of an instance. Everyone locks them in the order of their ids, which
//! rules out deadlocks.

use uuid::Uuid;

use super::{Tx, fault::Measured};
use crate::domain::{Result, name::InstanceName};

impl Tx {
    /// Locks the operations of an instance and of its children. A worker locks its operation
    /// before the instance, so whoever ends all of them must do the same.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn lock_family(&mut self, name: &InstanceName) -> Result<()> {
        sqlx::query!(
            "select o.id from operations o
                join instances i on i.uid in (o.target_uid, o.parent_uid)
             where i.project = $1 and i.id = $2 and o.end_time is null
             order by o.id for no key update of o",
            name.project.as_str(),
            name.instance.as_str(),
        )
        .fetch_all(self.connection())
        .named("family.lock_family")
        .await?;
        Ok(())
    }

    /// The same by the instance's unique id. A worker calls it before it checks its token,
    /// because its commit may end or wake operations on the children.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn lock_family_of(&mut self, instance: Uuid) -> Result<()> {
        sqlx::query!(
            "select id from operations
             where (target_uid = $1 or parent_uid = $1) and end_time is null
             order by id for no key update",
            instance,
        )
        .fetch_all(self.connection())
        .named("family.lock_family_of")
        .await?;
        Ok(())
    }

    /// Locks the recoveries of an instance's servers, and a start that another request may
    /// replace.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn lock_start(&mut self, name: &InstanceName) -> Result<()> {
        sqlx::query!(
            "select o.id from operations o
                join instances i on i.uid in (o.target_uid, o.parent_uid)
             where i.project = $1 and i.id = $2 and o.end_time is null
                and o.gives_way <> 'NEVER'
             order by o.id for no key update of o",
            name.project.as_str(),
            name.instance.as_str(),
        )
        .fetch_all(self.connection())
        .named("family.lock_start")
        .await?;
        Ok(())
    }
}
