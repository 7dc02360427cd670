//! Instances.

use std::collections::BTreeMap;

use serde_json::json;
use uuid::Uuid;

use super::{
    App, Mutation,
    admin::identity,
    mutation::{Accepting, Target},
    operations,
    pages::{List, Listed, Page, Query},
};
use crate::{
    domain::{
        Error, Reason, Result,
        filter::{Fields, Filter, Type, Value as Field},
        instance::{Instance, ServerRole, Status, set_condition},
        list::Order,
        name::{InstanceName, ProjectName},
        operation::Operation,
        provider::{Placement, ServerSpec},
        recorded::Recorded,
        version::{Version, Wanted},
    },
    store::{
        Tx,
        instances::NewInstance,
        lease::Claim,
        servers::{NewServer, Ports},
    },
};

pub(super) const FIELDS: Fields = &[
    ("instance_id", Type::Text),
    (
        "state",
        Type::Word(&[
            "CREATING", "READY", "STOPPED", "STARTING", "STOPPING", "DELETING", "DELETED", "FAILED",
        ]),
    ),
    ("version", Type::Text),
    ("display_name", Type::Text),
    ("ephemeral", Type::Bool),
    ("create_time", Type::Time),
];

/// A request for a new instance.
#[derive(Clone, Debug)]
pub struct CreateInstance {
    /// Resource name.
    pub name: InstanceName,
    /// Wanted version.
    pub wanted: Wanted,
    /// Name for people.
    pub display_name: String,
    /// Labels of the user.
    pub labels: BTreeMap<String, String>,
    /// Notes of the user's tools.
    pub annotations: BTreeMap<String, String>,
    /// PostgreSQL settings.
    pub parameters: BTreeMap<String, String>,
    /// Careless of the disk.
    pub ephemeral: bool,
    /// Refuses deletion without force.
    pub deletion_protection: bool,
    /// Host to make it on; none: this one.
    pub host: Option<Uuid>,
}

impl App {
    /// Gets an instance.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND.
    pub async fn instance(&self, name: &InstanceName) -> Result<Recorded<Instance>> {
        let instance = self.parts.store.instance(name).await?;
        Ok(instance.map(|instance| self.located(instance)))
    }

    /// Lists the instances of a project.
    ///
    /// # Errors
    /// PAGE_SIZE_NEGATIVE, PAGE_TOKEN_INVALID, FILTER_INVALID, ORDER_BY_INVALID.
    pub async fn list_instances(
        &self,
        project: &ProjectName,
        list: List,
    ) -> Result<Page<Recorded<Instance>>> {
        let order = Order::parse(&list.order_by, "instance_id")?;
        let filter = Filter::parse(&list.filter, FIELDS)?;
        let query = Query::new(&project.to_string(), list, order, filter)?;
        let mut part = self.parts.store.instances(project, query.slice()).await?;
        if part.records.is_empty() {
            self.parts.store.require_project(&project.project).await?;
        }
        let located = |found: Recorded<Instance>| found.map(|instance| self.located(instance));
        part.records = part.records.into_iter().map(located).collect();
        query.page(part)
    }

    /// The instance with its endpoint, from the record of its active server, and with the
    /// conditions of servers whose host is gone.
    pub(super) fn located(&self, mut instance: Instance) -> Instance {
        for server in &instance.servers {
            let Some(time) = self.host_gone_time(server) else {
                continue;
            };
            let message = "no process of Howdah has been seen on the host for a minute";
            let reason = Reason::HostUnavailable.as_str();
            // The server itself may well run on.
            let condition = server.available(Status::Unknown, reason, message, time);
            set_condition(&mut instance.conditions, condition);
        }
        instance.endpoint = instance.active().ok().and_then(|server| {
            let started = server.started.then(|| server.address.clone());
            started.flatten()
        });
        instance
    }

    /// Creates an instance.
    ///
    /// # Errors
    /// INSTANCE_EXISTS, VERSION_NOT_INSTALLED, POSTGRESQL_NOT_FOUND, PARAMETER_INVALID,
    /// PARAMETER_RESERVED, PORTS_EXHAUSTED, PROJECT_NOT_FOUND, HOST_NOT_FOUND,
    /// HOST_UNAVAILABLE, UNIMPLEMENTED for a version that is too old.
    pub async fn create_instance(
        &self,
        mutation: Mutation,
        new: CreateInstance,
    ) -> Result<Operation> {
        // A replay is answered whatever this machine has by now. What is slow is done
        // before the transaction begins.
        if let Some(former) = self.replayed(&mutation).await? {
            return Ok(former);
        }
        let version = self.check_new(&new).await?;
        self.mutate(mutation, move |app, accepting| {
            app.accept_create(accepting, new, version)
        })
        .await
    }

    /// The version that a new instance will run. Its parameters are checked against that
    /// version's known parameters where they are: on another host, by the operation's first step.
    async fn check_new(&self, new: &CreateInstance) -> Result<Version> {
        if let Some(host) = new.host.filter(|host| *host != self.parts.host) {
            let versions = self.parts.store.host_versions(host).await?;
            if versions.is_empty() {
                let message = "the host has not told yet which versions it has";
                return Err(Error::new(Reason::ServerUnavailable, message));
            }
            let fitting = versions
                .iter()
                .filter(|version| new.wanted.matches(**version));
            return fitting.max().copied().ok_or_else(|| {
                let message = format!("PostgreSQL {} is not installed on the host", new.wanted);
                Error::new(Reason::VersionNotInstalled, message).with_field("instance.version")
            });
        }
        let version = self.engine_for(new.wanted).await?.version;
        let provider = self.parts.providers.default()?;
        provider.check_parameters(version, &new.parameters).await?;
        Ok(version)
    }

    async fn accept_create(
        self,
        mut accepting: Accepting,
        new: CreateInstance,
        version: Version,
    ) -> Result<Operation> {
        let provider = self.parts.providers.default()?;
        let host = match provider.is_of_hosts() {
            true => Some(new.host.unwrap_or(self.parts.host)),
            false => None,
        };
        let (uid, server) = (self.parts.random.uuid()?, self.parts.random.uuid()?);
        let password = self.parts.random.password()?;
        let admin_password = self.parts.keyring.seal(&password, &identity(server))?;
        let tx = &mut accepting.tx;
        tx.hold_project(&new.name.project).await?;
        let target = Target {
            project: new.name.project.clone(),
            name: new.name.to_string(),
            uid,
            parent: None,
            host,
        };
        tx.insert_instance(&record(new, uid)).await?;
        let placement = match host {
            Some(host) => {
                accepting = self.refuse_host_gone(accepting, host).await?;
                Some(self.place(&mut accepting.tx, host).await?)
            }
            None => None,
        };
        let tx = &mut accepting.tx;
        tx.insert_server(&NewServer {
            uid: server,
            instance_uid: uid,
            number: 1,
            role: ServerRole::Active,
            provider: provider.name(),
            version,
            placement,
            admin_password,
        })
        .await?;
        accepting
            .enqueue(&operations::CREATE_INSTANCE, target, json!({}))
            .await
    }

    /// Refuses a host on which no process would make the instance, as [`App::refuse_gone`].
    async fn refuse_host_gone(&self, mut held: Accepting, host: Uuid) -> Result<Accepting> {
        if host == self.parts.host || !held.tx.host_is_gone(host).await? {
            return Ok(held);
        }
        drop(held);
        let error = self.host_gone(host, "or name another host").await?;
        Err(error.with_field("instance.local.host"))
    }

    /// A place on the host, with a port that is free there.
    async fn place(&self, tx: &mut Tx, host: Uuid) -> Result<Placement> {
        let ports = tx.lock_ports(host).await?;
        let port = self.free_port(host, &ports)?;
        Ok(Placement { host, port })
    }

    /// A port of the host's range that is not reserved on the host, nor taken by another program
    /// if it is this host. The search begins anywhere, so that two programs seldom meet.
    fn free_port(&self, host: Uuid, ports: &Ports) -> Result<u16> {
        let range = &ports.range;
        let count = usize::from(range.end().saturating_sub(*range.start())) + 1;
        let mut random = [0; 8];
        self.parts.random.fill(&mut random)?;
        let begin = usize::from_le_bytes(random) % count;
        let rotated = range.clone().cycle().skip(begin).take(count);
        let bindable = |port: &u16| {
            host != self.parts.host || std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()
        };
        let mut free = rotated
            .filter(|port| !ports.reserved.contains(port))
            .filter(bindable);
        free.next().ok_or_else(|| {
            let message = format!("no port from {} to {} is free", range.start(), range.end());
            Error::new(Reason::PortsExhausted, message)
        })
    }

    /// Gives a server that has never run another port: its own was taken by another
    /// program since it was reserved.
    pub(super) async fn move_port(&self, claim: &Claim, server: &ServerSpec) -> Result<()> {
        let mut tx = self.parts.store.begin().await?;
        tx.check_token(claim.id, claim.token).await?;
        let unplaced = || Error::internal("a server without a place has no port");
        let host = server.placement.ok_or_else(unplaced)?.host;
        let ports = tx.lock_ports(host).await?;
        let port = self.free_port(host, &ports)?;
        tx.set_port(server.uid, port).await?;
        tx.commit().await
    }
}

fn record(new: CreateInstance, uid: Uuid) -> NewInstance {
    NewInstance {
        uid,
        name: new.name,
        display_name: new.display_name,
        labels: new.labels,
        annotations: new.annotations,
        wanted_version: new.wanted.to_string(),
        parameters: new.parameters,
        ephemeral: new.ephemeral,
        deletion_protection: new.deletion_protection,
    }
}

impl Listed for Instance {
    fn labels(&self) -> Option<&BTreeMap<String, String>> {
        Some(&self.labels)
    }

    fn field(&self, name: &str) -> Option<Field> {
        Some(match name {
            "instance_id" => Field::Text(self.name.instance.to_string()),
            "state" => Field::Text(self.state.as_str().to_owned()),
            "version" => Field::Text(self.wanted.to_string()),
            "display_name" => Field::Text(self.display_name.clone()),
            "ephemeral" => Field::Bool(self.ephemeral),
            "create_time" => Field::Time(self.create_time),
            _ => return None,
        })
    }
}
