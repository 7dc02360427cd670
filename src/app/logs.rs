//! The logs of instances' servers.

use super::admin::Servers;
use crate::{
    domain::{
        Result,
        name::InstanceName,
        server_log::{Begin, Part},
    },
    store::Store,
};

/// The logs of instances' servers. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    pub(super) store: Store,
    pub(super) servers: Servers,
}

impl Logs {
    /// Reads a part of the log of an instance's active server, whatever its state.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND; HOST_ELSEWHERE, HOST_UNAVAILABLE; UNIMPLEMENTED where the provider
    /// shows no logs.
    pub async fn read(&self, name: &InstanceName, begin: Begin) -> Result<Part> {
        let instance = self.store.instance(name).await?.whole()?;
        let server = instance.active()?;
        self.servers.refuse_elsewhere(&instance, server).await?;
        let spec = self.servers.server_spec(&instance, server, 0).await?;
        let provider = self.servers.provider_of(&spec.provider)?;
        provider.read_log(&spec, begin).await
    }
}
