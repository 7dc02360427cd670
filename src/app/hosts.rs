//! This host and the other hosts, and what only their own processes can do.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    domain::{
        Error, Reason, Result,
        instance::{Instance, Server, Status, set_condition},
        operation::{Encode, Outcome, Response},
    },
    store::Store,
};

/// This host, and the records of the others. Cheap to clone.
#[derive(Clone)]
pub(super) struct Hosts {
    store: Store,
    /// This host, whose local servers are in reach.
    here: Uuid,
}

impl Hosts {
    pub(super) fn new(store: Store, here: Uuid) -> Self {
        Self { store, here }
    }

    /// This host, whose local servers are in reach.
    pub(super) fn here(&self) -> Uuid {
        self.here
    }

    /// Completes an instance: adds its endpoint, from the record of its active server, and the
    /// conditions of servers whose host is gone.
    pub(super) fn located(&self, mut instance: Instance) -> Instance {
        for server in &instance.servers {
            let Some(time) = self.gone_time(server) else {
                continue;
            };
            let message = "no process of Howdah has been seen on the host for a minute";
            let reason = Reason::HostUnavailable.as_str();
            // The server may still run: only Howdah's processes are silent.
            let condition = server.available(Status::Unknown, reason, message, time);
            set_condition(&mut instance.conditions, condition);
        }
        instance.endpoint = instance.active().ok().and_then(|server| {
            let started = server.started.then(|| server.address.clone());
            started.flatten()
        });
        instance
    }

    /// Since when the server's host is gone; none if it is not, or if it is this host.
    pub(super) fn gone_time(&self, server: &Server) -> Option<DateTime<Utc>> {
        let elsewhere = server.host().is_some_and(|host| host != self.here);
        server.host_gone_time.filter(|_| elsewhere)
    }

    /// Returns an error if the host of one of these servers is gone, otherwise returns `held`.
    /// Before the query for the host's name `held`, a transaction, is dropped. Otherwise many
    /// refusals at once could hold all connections of the pool and wait for another one each.
    pub(super) async fn refuse_gone<T>(
        &self,
        held: T,
        instance: &Instance,
        servers: &[Server],
    ) -> Result<T> {
        let mut gone = servers
            .iter()
            .filter(|server| self.gone_time(server).is_some());
        let Some(host) = gone.find_map(Server::host) else {
            return Ok(held);
        };
        drop(held);
        let remedy = "only if the host is lost for good, deleting with `force` and `purge` gives \
             up the records and passwords of the instance, while a server that still exists \
             there is left alone";
        let error = self.gone(host, remedy).await?;
        Err(error.with_resource(instance.name.to_string()))
    }

    /// The error for a host that is gone. `remedy` names an alternative to a start on that host.
    pub(super) async fn gone(&self, host: Uuid, remedy: &str) -> Result<Error> {
        let name = self.store.host_name(host).await?;
        Ok(host_gone(host, &name, remedy))
    }
}

/// The error for a host that is gone. `remedy` names an alternative to a start on that host.
pub(super) fn host_gone(host: Uuid, name: &str, remedy: &str) -> Error {
    let message = format!(
        "no Howdah process has been seen for a minute on the host {name} ({host}): start it \
         there; {remedy}"
    );
    Error::new(Reason::HostUnavailable, message)
        .with_metadata("host", host.to_string())
        .with_metadata("host_name", name)
}

/// Encodes the responses of operations. Cheap to clone.
#[derive(Clone)]
pub(super) struct Answers {
    encode: Encode,
    hosts: Hosts,
}

impl Answers {
    pub(super) fn new(encode: Encode, hosts: Hosts) -> Self {
        Self { encode, hosts }
    }

    /// Encodes the response of an operation. An instance gets its endpoint first, from the
    /// record of its active server.
    pub(super) fn response(&self, outcome: Outcome) -> Result<Response> {
        (self.encode)(match outcome {
            Outcome::Instance(instance) => {
                Outcome::Instance(Box::new(self.hosts.located(*instance)))
            }
            other => other,
        })
    }
}
