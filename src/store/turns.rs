//! Turns at an instance's row, in a fair order. PostgreSQL grants new `for share` locks while a
//! `for update` waits, so a steady stream of them would keep it waiting for ever. Both therefore
//! take an advisory lock first, whose queue is fair.

use uuid::Uuid;

use super::{Tx, fault::Measured};
use crate::domain::{Result, name::InstanceName};

/// First key of these advisory locks. The second key is a hash of the instance's uid. Instances
/// with the same hash only wait for each other more often than needed.
const NAMESPACE: i32 = 0x686f_7764;

impl Tx {
    /// Waits for a turn at the instance, alone or shared, and keeps it until the transaction
    /// ends. Does nothing if there is no such instance.
    pub(super) async fn queue_for_instance(
        &mut self,
        name: &InstanceName,
        alone: bool,
    ) -> Result<()> {
        sqlx::query!(
            "select case when $4 then pg_advisory_xact_lock($3, hashtext(uid::text))
                else pg_advisory_xact_lock_shared($3, hashtext(uid::text)) end
             from instances where project = $1 and id = $2",
            name.project.as_str(),
            name.instance.as_str(),
            NAMESPACE,
            alone,
        )
        .fetch_optional(self.connection())
        .named("turns.queue_for_instance")
        .await?;
        Ok(())
    }

    /// Waits for a turn alone at the instance, and keeps it until the transaction ends.
    pub(super) async fn queue_for_instance_by_uid(&mut self, uid: Uuid) -> Result<()> {
        sqlx::query!(
            "select pg_advisory_xact_lock($1, hashtext($2::uuid::text))",
            NAMESPACE,
            uid,
        )
        .fetch_optional(self.connection())
        .named("turns.queue_for_instance_by_uid")
        .await?;
        Ok(())
    }
}
