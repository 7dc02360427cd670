//! What has to be done from time to time: signs of life, retention, purges.

use std::time::Duration;

use serde_json::Value;

use super::{App, mutation::Target, operations};
use crate::domain::{Reason, Result, instance::Instance};

/// How often.
const INTERVAL: Duration = Duration::from_secs(10);

/// Runs as long as the process serves.
pub(super) async fn run(app: App) {
    loop {
        if let Err(error) = app.keep_house().await {
            tracing::warn!(%error, detail = error.internal_detail(), "housekeeping failed");
        }
        tokio::select! {
            () = app.stopping.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

impl App {
    async fn keep_house(&self) -> Result<()> {
        let settings = &self.parts.settings;
        let store = &self.parts.store;
        store.see_host(self.parts.host, "local").await?;
        store
            .forget_requests(settings.idempotency_retention.as_secs_f64())
            .await?;
        store
            .forget_operations(settings.retention.as_secs_f64())
            .await?;
        for instance in store.instances_to_purge().await? {
            self.purge(&instance).await?;
        }
        self.provider().empty_trash().await
    }

    async fn purge(&self, instance: &Instance) -> Result<()> {
        let mut accepting = self.own("purge").await?;
        let Some(now) = accepting.tx.lock_instance_by_uid(instance.uid).await? else {
            return Ok(());
        };
        // It may have been undeleted since it was read.
        if now.delete_time != instance.delete_time {
            return Ok(());
        }
        let target = Target::of(&now)?;
        match accepting
            .enqueue(&operations::PURGE_INSTANCE, target, Value::Null)
            .await
        {
            Err(error) if error.reason() == Reason::ResourceBusy => Ok(()),
            purged => purged.map(|_| ()),
        }
    }
}
