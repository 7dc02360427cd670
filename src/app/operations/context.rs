//! What a step knows: its claim, and the records of what it works on.

use serde::de::DeserializeOwned;

use super::{dispatch::StepEngine, plan::Step, plans};
use crate::{
    domain::{
        Error, Result,
        database::Database,
        instance::{Instance, Server},
        provider::ServerSpec,
    },
    store::lease::Claim,
};

/// The surroundings of a step.
pub(crate) struct Context {
    /// What steps work with.
    pub(crate) engine: StepEngine,
    /// The operation that it is a step of.
    pub(crate) claim: Claim,
}

impl Context {
    /// The step that it is at.
    pub(super) fn step(&self) -> Option<&'static Step> {
        plans::find(&self.claim.kind, self.claim.plan_version)?.step(self.claim.position)
    }

    /// What the operation was accepted with.
    pub(crate) fn parameters<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.claim.parameters.clone())
            .map_err(|error| Error::internal("parameters of an operation").with_source(error))
    }

    /// The instance that the operation is about, as it is now.
    pub(crate) async fn instance(&self) -> Result<Instance> {
        let uid = self.claim.parent_uid.unwrap_or(self.claim.target_uid);
        let found = self.engine.store.instance_by_uid(uid).await?;
        found.ok_or_else(|| Error::internal(format!("instance {uid} of an operation is gone")))
    }

    /// The database that the operation is about, as it is now.
    pub(crate) async fn database(&self) -> Result<Database> {
        let uid = self.claim.target_uid;
        let found = self.engine.store.database_by_uid(uid).await?;
        found.ok_or_else(|| Error::internal(format!("database {uid} of an operation is gone")))
    }

    /// The server that the operation works on: the one that it names as its target, or else
    /// the active one.
    pub(super) fn server_of<'a>(&self, instance: &'a Instance) -> Result<&'a Server> {
        match instance.server(self.claim.target_uid) {
            Some(named) => Ok(named),
            None => instance.active(),
        }
    }

    /// The server that the operation works on, as its provider takes it.
    pub(crate) async fn server(&self) -> Result<ServerSpec> {
        let instance = self.instance().await?;
        let server = self.server_of(&instance)?;
        let token = self.claim.token;
        self.engine
            .servers
            .server_spec(&instance, server, token)
            .await
    }

    /// All servers of the instance, as their providers take them.
    pub(crate) async fn servers(&self) -> Result<Vec<ServerSpec>> {
        let instance = self.instance().await?;
        let mut servers = Vec::with_capacity(instance.servers.len());
        for server in &instance.servers {
            let token = self.claim.token;
            servers.push(
                self.engine
                    .servers
                    .server_spec(&instance, server, token)
                    .await?,
            );
        }
        Ok(servers)
    }
}
