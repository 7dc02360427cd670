//! Waits for servers that did not stop in time but may end later.

use super::{INSPECTION, Supervisor, terms::Term};
use crate::domain::{
    Result,
    instance::{Condition, Instance, ServerGoal, State, Status},
    provider::Presence,
};

impl Supervisor {
    /// Inspects the servers of an instance whose stop has failed. When all have ended the
    /// instance becomes STOPPED. Returns when there is nothing to wait for, or when it is time
    /// to look again.
    pub(super) async fn see_the_end(&self, instance: &Instance, term: &Term) -> Result<()> {
        if !may_end(instance) {
            return Ok(());
        }
        for server in instance.servers.iter().filter(|server| server.started) {
            let server = self.servers.server_spec(instance, server, 0).await?;
            let provider = self.servers.provider_of(&server.provider)?;
            let presence = match provider.inspect(&server).await {
                Ok(Presence::Stopped | Presence::Missing) => continue,
                Ok(presence) => presence,
                // The server may be frozen: its process still exists.
                Err(_) => Presence::Running,
            };
            return tokio::select! {
                changed = provider.changed(&server, presence) => changed,
                () = tokio::time::sleep(INSPECTION) => Ok(()),
            };
        }
        self.record_end(instance, term).await
    }

    /// Makes the instance STOPPED, unless it has changed or another process supervises it now.
    async fn record_end(&self, instance: &Instance, term: &Term) -> Result<()> {
        let mut tx = self.store.begin().await?;
        let Some(now) = tx.lock_instance_by_uid(instance.uid).await? else {
            return Ok(());
        };
        if !tx.holds_lease(term.held).await? {
            return Ok(());
        }
        if !may_end(&now) || now.revision != instance.revision {
            return Ok(());
        }
        let message = "the server did not stop in time, and has ended since";
        let time = self.clock.now();
        let stopped = Condition::available(Status::False, "STOPPED", message, time);
        tx.set_instance_state(now.uid, State::Stopped).await?;
        tx.set_instance_condition(now.uid, &stopped).await?;
        tx.commit().await?;
        tracing::info!(instance = %now.name, "a server has ended that did not stop in time");
        Ok(())
    }
}

/// Whether a stop has failed and the state of the server is unknown: see `mark_not_stopped`.
pub(super) fn may_end(instance: &Instance) -> bool {
    let to_stop = instance
        .active()
        .is_ok_and(|server| server.started && server.wanted == ServerGoal::Stopped);
    to_stop
        && instance.delete_time.is_none()
        && instance.state == State::Failed
        && !instance.reconciling
        && !instance.is_down()
}
