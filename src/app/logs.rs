//! Use case of reading servers' logs.

use std::sync::Arc;

use super::{
    admin::Servers,
    audit::{Origin, repeated_uid},
};
use crate::{
    domain::{
        Result,
        audit::Outcome,
        clock::Clock,
        name::InstanceName,
        server_log::{Begin, Part},
    },
    store::Store,
};

/// Reads servers' logs. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) servers: Servers,
}

impl Logs {
    /// Reads a part of the log of an instance's active server, in any state of the instance. An
    /// audit record is written before the response, as for a password.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND; HOST_ELSEWHERE, HOST_UNAVAILABLE; UNIMPLEMENTED if the provider has
    /// no logs.
    pub async fn read(&self, origin: &Origin, name: &InstanceName, begin: Begin) -> Result<Part> {
        let instance = self.store.instance(name).await?.whole()?;
        let server = instance.active()?;
        self.servers.refuse_elsewhere(&instance, server).await?;
        let spec = self.servers.server_spec(&instance, server, 0).await?;
        let provider = self.servers.provider_of(&spec.provider)?;
        let part = provider.read_log(&spec, begin).await?;
        let resource = name.to_string();
        let record = origin.record(&name.project, &resource, Outcome::HandedOut);
        let uid = repeated_uid(&record, self.clock.now());
        self.store.count_audit_record(uid, &record).await?;
        Ok(part)
    }
}
