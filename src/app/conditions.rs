//! Conditions of instances and of their servers.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    domain::{
        Error, Result,
        clock::Clock,
        instance::{Condition, Instance, Server, Status},
    },
    store::{Store, Tx},
};

/// Records conditions of instances. Cheap to clone.
#[derive(Clone)]
pub(super) struct Conditions {
    store: Store,
    clock: Arc<dyn Clock>,
}

impl Conditions {
    pub(super) fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Records that a server cannot be inspected, or is not the one on record.
    pub(super) async fn cannot_watch(&self, instance: &Instance, server: &Server, error: &Error) {
        let (reason, message) = (error.reason().as_str(), error.message());
        let recorded = self.record_available(instance, server, Status::Unknown, reason, message);
        if let Err(error) = recorded.await {
            tracing::warn!(instance = %instance.name, %error, "cannot record a condition");
        }
    }

    /// Records whether a server is available, if the condition changes by that.
    pub(super) async fn record_available(
        &self,
        instance: &Instance,
        server: &Server,
        status: Status,
        reason: &str,
        message: &str,
    ) -> Result<()> {
        let condition = server.available(status, reason, message, self.clock.now());
        match server.is_active() {
            true => self.record_condition(instance.uid, &condition).await,
            false => self.record_beside(instance, server, &condition).await,
        }
    }

    /// Records a condition of a server beside the active one that shall run, if it changes.
    async fn record_beside(
        &self,
        instance: &Instance,
        server: &Server,
        condition: &Condition,
    ) -> Result<()> {
        let mut tx = self.store.begin().await?;
        let Some(now) = tx.lock_instance_by_uid(instance.uid).await? else {
            return Ok(());
        };
        let fits = |it: &&Server| now.is_to_run(it) && it.role == server.role;
        let known = now.conditions.iter().any(|known| known.says(condition));
        if known || now.server(server.uid).filter(fits).is_none() {
            return Ok(());
        }
        tx.set_instance_condition(now.uid, condition).await?;
        tx.commit().await
    }

    /// Records that the active server does not accept connections, or will soon not accept any.
    pub(super) async fn set_unavailable(
        &self,
        tx: &mut Tx,
        uid: Uuid,
        reason: &str,
        message: &str,
    ) -> Result<()> {
        let time = self.clock.now();
        let condition = Condition::available(Status::False, reason, message, time);
        tx.set_instance_condition(uid, &condition).await
    }

    /// Records a condition of an instance if it changes. Only if the instance shall run and no
    /// operation works on it, because an operation sets the condition itself.
    pub(super) async fn record_condition(&self, uid: Uuid, condition: &Condition) -> Result<()> {
        let mut tx = self.store.begin().await?;
        let Some(now) = tx.lock_instance_by_uid(uid).await? else {
            return Ok(());
        };
        let is_to_run = now.active().is_ok_and(|active| now.is_to_run(active));
        if now.reconciling || !is_to_run {
            return Ok(());
        }
        if now.conditions.iter().any(|known| known.says(condition)) {
            return Ok(());
        }
        tx.set_instance_condition(uid, condition).await?;
        tx.commit().await
    }
}
