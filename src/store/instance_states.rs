//! States, conditions and the end of instances.

use sqlx::types::Json;
use uuid::Uuid;

use super::{Tx, fault::Measured, operations::Family};
use crate::domain::{
    Result,
    instance::{Condition, State},
};

impl Tx {
    /// Sets the state of an instance.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn set_instance_state(&mut self, uid: Uuid, state: State) -> Result<()> {
        sqlx::query!(
            "update instances set state = $2, revision = revision + 1, update_time = now()
             where uid = $1",
            uid,
            state.as_str(),
        )
        .execute(self.connection())
        .named("instances.set_instance_state")
        .await?;
        Ok(())
    }

    /// Marks an instance as deleted, with a purge in `seconds`, and ends the operations on its
    /// children.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn mark_instance_deleted(&mut self, uid: Uuid, seconds: f64) -> Result<()> {
        self.give_up_family(uid, Family::Children).await?;
        sqlx::query!(
            "update instances set state = 'DELETED', delete_time = now(),
                purge_time = now() + make_interval(secs => $2), revision = revision + 1,
                update_time = now() where uid = $1",
            uid,
            seconds,
        )
        .execute(self.connection())
        .named("instances.mark_instance_deleted")
        .await?;
        Ok(())
    }

    /// Sets the purge of a deleted instance to `seconds` from now. If a user has not asked for
    /// the purge, a later purge time is kept. Records whether a user has asked.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn delay_purge(&mut self, uid: Uuid, seconds: f64, requested: bool) -> Result<()> {
        sqlx::query!(
            "update instances set revision = revision + 1, update_time = now(),
                purge_requested = purge_requested or $3,
                purge_time = greatest(case when not $3 then purge_time end,
                    now() + make_interval(secs => $2))
             where uid = $1 and purge_time is not null",
            uid,
            seconds,
            requested,
        )
        .execute(self.connection())
        .named("instances.delay_purge")
        .await?;
        Ok(())
    }

    /// Whether a user has asked for the purge of a deleted instance.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn purge_requested(&mut self, uid: Uuid) -> Result<bool> {
        let found =
            sqlx::query_scalar!("select purge_requested from instances where uid = $1", uid)
                .fetch_optional(self.connection())
                .named("instances.purge_requested")
                .await?;
        Ok(found.unwrap_or_default())
    }

    /// Removes the mark of deletion.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn mark_instance_undeleted(&mut self, uid: Uuid) -> Result<()> {
        sqlx::query!(
            "update instances set state = 'STARTING', delete_time = null,
                purge_time = null, purge_requested = false, revision = revision + 1,
                update_time = now() where uid = $1",
            uid,
        )
        .execute(self.connection())
        .named("instances.mark_instance_undeleted")
        .await?;
        Ok(())
    }

    /// Deletes the records of an instance and of everything that belongs to it. Its id and its
    /// ports are free again.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn remove_instance(&mut self, uid: Uuid) -> Result<()> {
        self.give_up_family(uid, Family::Children).await?;
        sqlx::query!("delete from instances where uid = $1", uid)
            .execute(self.connection())
            .named("instances.remove_instance")
            .await?;
        Ok(())
    }

    /// Sets a condition, in place of the former one of the same type, with the database's time.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn set_instance_condition(&mut self, uid: Uuid, condition: &Condition) -> Result<()> {
        sqlx::query!(
            "update instances set revision = revision + 1, update_time = now(), conditions =
                (select coalesce(jsonb_agg(c), '[]') from jsonb_array_elements(conditions) c
                    where c ->> 'type' <> $2)
                || jsonb_build_array($3::jsonb || jsonb_build_object('time', now()))
             where uid = $1",
            uid,
            condition.kind,
            Json(condition) as _,
        )
        .execute(self.connection())
        .named("instances.set_instance_condition")
        .await?;
        Ok(())
    }

    /// Removes a condition.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn clear_instance_condition(&mut self, uid: Uuid, kind: &str) -> Result<()> {
        sqlx::query!(
            "update instances set revision = revision + 1, update_time = now(), conditions =
                (select coalesce(jsonb_agg(c), '[]') from jsonb_array_elements(conditions) c
                    where c ->> 'type' <> $2)
             where uid = $1 and conditions @> jsonb_build_array(jsonb_build_object('type', $2::text))",
            uid,
            kind,
        )
        .execute(self.connection())
        .named("instances.clear_instance_condition")
        .await?;
        Ok(())
    }
}
