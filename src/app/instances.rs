//! Use cases of instances, without the changes in `instance_changes`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use uuid::Uuid;

use super::{
    Engines, Mutation,
    admin::password_label,
    conditions::Conditions,
    hosts::Hosts,
    mutation::{Accepting, Mutations, ResourceRef},
    operations,
    pages::{List, Listed, Page, Query},
    ports::Ports,
    steady::MetadataClock,
};
use crate::{
    domain::{
        Error, Reason, Result,
        clock::Clock,
        filter::{Fields, Filter, Type, Value as Field},
        instance::{Instance, ServerRole},
        list::Order,
        name::{InstanceName, ProjectName},
        operation::Operation,
        provider::Providers,
        random::Random,
        recorded::Recorded,
        version::{Version, Wanted},
    },
    store::{Store, instances::NewInstance, sealing::Keyring, servers::NewServer},
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

/// Arguments of CreateInstance.
#[derive(Clone, Debug)]
pub struct CreateInstance {
    /// Resource name.
    pub name: InstanceName,
    /// Requested version.
    pub wanted: Wanted,
    /// Name for people.
    pub display_name: String,
    /// Labels of the user.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the user's tools.
    pub annotations: BTreeMap<String, String>,
    /// PostgreSQL parameters.
    pub parameters: BTreeMap<String, String>,
    /// Whether a crash may lose its data.
    pub ephemeral: bool,
    /// Whether deletion without `force` is refused.
    pub deletion_protection: bool,
    /// Host to create it on; none for this host.
    pub host: Option<Uuid>,
}

/// Use cases of instances. Cheap to clone.
#[derive(Clone)]
pub struct Instances {
    pub(super) store: Store,
    pub(super) providers: Providers,
    pub(super) keyring: Keyring,
    pub(super) random: Arc<dyn Random>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metadata_clock: MetadataClock,
    pub(super) hosts: Hosts,
    pub(super) engines: Engines,
    pub(super) ports: Ports,
    pub(super) conditions: Conditions,
    pub(super) mutations: Mutations,
    /// How long the data of a deleted instance is kept.
    pub(super) purge_delay: Duration,
}

impl Instances {
    /// Gets an instance.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND.
    pub async fn get(&self, name: &InstanceName) -> Result<Recorded<Instance>> {
        let instance = self.store.instance(name).await?;
        Ok(instance.map(|instance| self.hosts.located(instance)))
    }

    /// Lists the instances of a project.
    ///
    /// # Errors
    /// PAGE_SIZE_NEGATIVE, PAGE_TOKEN_INVALID, FILTER_INVALID, ORDER_BY_INVALID.
    pub async fn list(
        &self,
        project: &ProjectName,
        list: List,
    ) -> Result<Page<Recorded<Instance>>> {
        let order = Order::parse(&list.order_by, "instance_id")?;
        let filter = Filter::parse(&list.filter, FIELDS)?;
        let query = Query::new(&project.to_string(), list, order, filter)?;
        let mut part = self.store.instances(project, query.slice()).await?;
        if part.records.is_empty() {
            self.store.require_project(&project.project).await?;
        }
        let located =
            |found: Recorded<Instance>| found.map(|instance| self.hosts.located(instance));
        part.records = part.records.into_iter().map(located).collect();
        query.page(part)
    }

    /// Creates an instance.
    ///
    /// # Errors
    /// INSTANCE_EXISTS, VERSION_NOT_INSTALLED, POSTGRESQL_NOT_FOUND, PARAMETER_INVALID,
    /// PARAMETER_RESERVED, PORTS_EXHAUSTED, PROJECT_NOT_FOUND, HOST_NOT_FOUND,
    /// HOST_UNAVAILABLE, UNIMPLEMENTED for a version that is too old.
    pub async fn create(&self, mutation: Mutation, new: CreateInstance) -> Result<Operation> {
        // A repeated request gets its first operation, even if this machine has lost the version
        // since. Slow checks come before the transaction begins.
        if let Some(former) = self.mutations.replayed(&mutation).await? {
            return Ok(former);
        }
        let version = self.check_new(&new).await?;
        let instances = self.clone();
        let accept = move |accepting| instances.accept_create(accepting, new, version);
        self.mutations.accept(mutation, accept).await
    }

    /// Decides the version of a new instance, and checks its parameters against that version. On
    /// another host the first step of the operation checks the parameters, because the list of
    /// known parameters is there.
    async fn check_new(&self, new: &CreateInstance) -> Result<Version> {
        if let Some(host) = new.host.filter(|host| *host != self.hosts.here()) {
            let versions = self.store.host_versions(host).await?;
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
        let version = self.engines.newest(new.wanted).await?.version;
        let provider = self.providers.default()?;
        provider.check_parameters(version, &new.parameters).await?;
        Ok(version)
    }

    async fn accept_create(
        self,
        mut accepting: Accepting,
        new: CreateInstance,
        version: Version,
    ) -> Result<Operation> {
        let provider = self.providers.default()?;
        let host = match provider.is_of_hosts() {
            true => Some(new.host.unwrap_or(self.hosts.here())),
            false => None,
        };
        let (uid, server) = (self.random.uuid()?, self.random.uuid()?);
        let password = self.random.password()?;
        let admin_password = self.keyring.seal(&password, &password_label(server))?;
        let tx = &mut accepting.tx;
        tx.hold_project(&new.name.project).await?;
        let target = ResourceRef {
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
                Some(self.ports.reserve(&mut accepting.tx, host).await?)
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

    /// Returns an error if the host is gone, like [`Hosts::refuse_gone`].
    async fn refuse_host_gone(&self, mut held: Accepting, host: Uuid) -> Result<Accepting> {
        if host == self.hosts.here() || !held.tx.host_is_gone(host).await? {
            return Ok(held);
        }
        drop(held);
        let error = self.hosts.gone(host, "or name another host").await?;
        Err(error.with_field("instance.local.host"))
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
