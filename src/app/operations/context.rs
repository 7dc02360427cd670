//! What a step can use: its claim, and the records of the resource that it works on.

use serde::de::DeserializeOwned;

use super::{dispatch::StepEngine, plan::Step, plans};
use crate::{
    domain::{
        Error, Result,
        change_stream::ChangeStream,
        database::Database,
        instance::{Instance, Server},
        provider::ServerSpec,
    },
    store::lease::Claim,
};

/// The arguments of a step.
pub(crate) struct Context {
    /// The store, the providers and the other components that steps use.
    pub(crate) engine: StepEngine,
    /// The claim on the operation that the step belongs to.
    pub(crate) claim: Claim,
}

impl Context {
    /// The step that runs now; none if this release does not know the plan.
    pub(super) fn step(&self) -> Option<&'static Step> {
        plans::find(&self.claim.kind, self.claim.plan_version)?.step(self.claim.position)
    }

    /// The parameters that were stored when the operation was accepted.
    pub(crate) fn parameters<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.claim.parameters.clone())
            .map_err(|error| Error::internal("parameters of an operation").with_source(error))
    }

    /// The present record of the operation's instance: its parent, otherwise its target.
    pub(crate) async fn instance(&self) -> Result<Instance> {
        let uid = self.claim.parent_uid.unwrap_or(self.claim.target_uid);
        let found = self.engine.store.instance_by_uid(uid).await?;
        found.ok_or_else(|| Error::internal(format!("instance {uid} of an operation is gone")))
    }

    /// The present record of the database that is the operation's target.
    pub(crate) async fn database(&self) -> Result<Database> {
        let uid = self.claim.target_uid;
        let found = self.engine.store.database_by_uid(uid).await?;
        found.ok_or_else(|| Error::internal(format!("database {uid} of an operation is gone")))
    }

    /// The change stream that the operation is about, as it is now.
    pub(crate) async fn change_stream(&self) -> Result<ChangeStream> {
        let uid = self.claim.target_uid;
        let found = self.engine.store.change_stream_by_uid(uid).await?;
        found.ok_or_else(|| Error::internal(format!("change stream {uid} of an operation is gone")))
    }

    /// The server that the operation works on: the server that is its target, otherwise the
    /// active server of the instance.
    pub(super) fn server_of<'a>(&self, instance: &'a Instance) -> Result<&'a Server> {
        match instance.server(self.claim.target_uid) {
            Some(named) => Ok(named),
            None => instance.active(),
        }
    }

    /// The server that the operation works on, in the form that its provider takes.
    pub(crate) async fn server(&self) -> Result<ServerSpec> {
        let instance = self.instance().await?;
        let server = self.server_of(&instance)?;
        let token = self.claim.token;
        self.engine
            .servers
            .server_spec(&instance, server, token)
            .await
    }

    /// All servers of the instance, in the form that their providers take.
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
