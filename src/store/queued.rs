//! Operations that wait for their turn and can be withdrawn, because nothing has begun.

use serde_json::Value;
use uuid::Uuid;

use super::{Tx, fault::Measured};
use crate::domain::{Result, name::InstanceName};

/// An operation that no worker has claimed yet. Its row is locked.
#[derive(Debug)]
pub struct Queued {
    /// Id of the operation.
    pub id: Uuid,
    /// Unique id of the resource that it works on.
    pub target_uid: Uuid,
    /// Its parameters. `former` holds the state that a withdrawal restores.
    pub parameters: Value,
}

impl Tx {
    /// Locks an operation if it can be withdrawn. Claims skip it until the transaction ends.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn lock_queued(&mut self, id: Uuid) -> Result<Option<Queued>> {
        sqlx::query_as!(
            Queued,
            "select id, target_uid, parameters from operations
             where id = $1 and state = 'PENDING' and parameters ? 'former' for no key update",
            id,
        )
        .fetch_optional(self.connection())
        .named("queued.lock_queued")
        .await
    }

    /// The same for the operation that waits for its turn on an instance; none if there is none.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn lock_queued_on(&mut self, name: &InstanceName) -> Result<Option<Queued>> {
        sqlx::query_as!(
            Queued,
            "select o.id, o.target_uid, o.parameters from operations o
                join instances i on i.uid = o.target_uid
             where i.project = $1 and i.id = $2 and o.end_time is null and o.state = 'PENDING'
                and o.parameters ? 'former'
             for no key update of o",
            name.project.as_str(),
            name.instance.as_str(),
        )
        .fetch_optional(self.connection())
        .named("queued.lock_queued_on")
        .await
    }
}
