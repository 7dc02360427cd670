//! Servers that did not stop when they were to, and end later.

use super::{INSPECTION, Supervisor, terms::Term};
use crate::domain::{
    Result,
    instance::{Condition, Instance, ServerGoal, State, Status},
    provider::Presence,
};

impl Supervisor {
    /// Looks at a server whose stop has failed: its instance is STOPPED when it has ended
    /// after all. Returns when there is nothing to see, or it is time for another look.
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
                // It may be frozen, and its process there.
                Err(_) => Presence::Running,
            };
            return tokio::select! {
                changed = provider.changed(&server, presence) => changed,
                () = tokio::time::sleep(INSPECTION) => Ok(()),
            };
        }
        self.record_end(instance, term).await
    }

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

/// Whether a stop has failed and it is not known what has become of the server: see
/// `mark_not_stopped`.
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
