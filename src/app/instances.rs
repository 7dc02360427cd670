//! Instances.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    App, Mutation,
    admin::identity,
    mutation::{Accepting, Target},
    operations::{self, DeleteInstanceParameters, Plan},
    pages::{Common, List, Listed, Page, Query},
};
use crate::{
    domain::{
        Error, Reason, Result,
        filter::{Fields, Filter, Type, Value as Field},
        instance::{Instance, State, check_etag},
        list::Order,
        name::{InstanceName, ProjectName},
        operation::{Failure, Operation, Outcome},
        provider::ServerSpec,
        version::Wanted,
    },
    store::{instances::NewInstance, lease::Claim, servers::NewServer},
};

/// A host that has not been seen for longer is gone, in seconds.
const HOST_GONE: f64 = 60.0;

const FIELDS: Fields = &[
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

/// A request to delete an instance.
#[derive(Clone, Debug)]
pub struct DeleteInstance {
    /// Resource name.
    pub name: InstanceName,
    /// Etag that it must have; empty for any.
    pub etag: String,
    /// In spite of databases, protection and a host that is gone.
    pub force: bool,
    /// Let it go at once.
    pub purge: bool,
}

/// A request to start, stop, restart or undelete an instance.
#[derive(Clone, Debug)]
pub struct ChangeInstance {
    /// Resource name.
    pub name: InstanceName,
    /// Etag that it must have; empty for any.
    pub etag: String,
}

impl App {
    /// Gets an instance.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND.
    pub async fn instance(&self, name: &InstanceName) -> Result<Instance> {
        Ok(self.located(self.parts.store.instance(name).await?))
    }

    /// Lists the instances of a project.
    ///
    /// # Errors
    /// PAGE_SIZE_NEGATIVE, PAGE_TOKEN_INVALID, FILTER_INVALID, ORDER_BY_INVALID.
    pub async fn list_instances(
        &self,
        project: &ProjectName,
        list: List,
    ) -> Result<Page<Instance>> {
        let order = Order::parse(&list.order_by, "instance_id")?;
        let filter = Filter::parse(&list.filter, FIELDS)?;
        let mut query = Query::new(&project.to_string(), list, order, filter)?;
        let mut page = Page::empty();
        loop {
            let read = self.parts.store.instances(project, query.slice()?).await?;
            let read = read
                .into_iter()
                .map(|instance| self.located(instance))
                .collect();
            if query.take(&mut page, read)? {
                return Ok(page);
            }
        }
    }

    /// Creates an instance.
    ///
    /// # Errors
    /// INSTANCE_EXISTS, VERSION_NOT_INSTALLED, POSTGRESQL_NOT_FOUND, PARAMETER_INVALID,
    /// PARAMETER_RESERVED, PORTS_EXHAUSTED, PROJECT_NOT_FOUND, HOST_NOT_FOUND.
    pub async fn create_instance(
        &self,
        mutation: Mutation,
        new: CreateInstance,
    ) -> Result<Operation> {
        self.mutate(mutation, move |app, accepting| {
            app.accept_create(accepting, new)
        })
        .await
    }

    /// Deletes an instance.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND, ETAG_MISMATCH, RESOURCE_BUSY, DELETION_PROTECTED,
    /// INSTANCE_HAS_DATABASES, INSTANCE_DELETED, HOST_UNAVAILABLE.
    pub async fn delete_instance(
        &self,
        mutation: Mutation,
        delete: DeleteInstance,
    ) -> Result<Operation> {
        self.mutate(mutation, move |app, accepting| {
            app.accept_delete(accepting, delete)
        })
        .await
    }

    /// Takes a deletion back.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND, INSTANCE_NOT_DELETED, ETAG_MISMATCH, RESOURCE_BUSY.
    pub async fn undelete_instance(
        &self,
        mutation: Mutation,
        change: ChangeInstance,
    ) -> Result<Operation> {
        self.change(mutation, change, Change::Undelete).await
    }

    /// Starts a stopped instance.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND, INSTANCE_DELETED, ETAG_MISMATCH, RESOURCE_BUSY.
    pub async fn start_instance(
        &self,
        mutation: Mutation,
        change: ChangeInstance,
    ) -> Result<Operation> {
        self.change(mutation, change, Change::Start).await
    }

    /// Stops an instance.
    ///
    /// # Errors
    /// As [`App::start_instance`].
    pub async fn stop_instance(
        &self,
        mutation: Mutation,
        change: ChangeInstance,
    ) -> Result<Operation> {
        self.change(mutation, change, Change::Stop).await
    }

    /// Stops and starts an instance.
    ///
    /// # Errors
    /// As [`App::start_instance`].
    pub async fn restart_instance(
        &self,
        mutation: Mutation,
        change: ChangeInstance,
    ) -> Result<Operation> {
        self.change(mutation, change, Change::Restart).await
    }

    async fn accept_create(
        self,
        mut accepting: Accepting,
        new: CreateInstance,
    ) -> Result<Operation> {
        let engine = self.engine_for(new.wanted).await?;
        self.provider()
            .check_parameters(engine.version, &new.parameters)
            .await?;
        let host = new.host.unwrap_or(self.parts.host);
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
            host: Some(host),
        };
        tx.insert_instance(&record(new, uid)).await?;
        let reserved = tx.lock_ports(host).await?;
        let port = self.free_port(&reserved)?;
        tx.insert_server(&NewServer {
            uid: server,
            instance_uid: uid,
            number: 1,
            provider: self.provider().name(),
            version: engine.version,
            host,
            port,
            admin_password,
        })
        .await?;
        accepting
            .enqueue(&operations::CREATE_INSTANCE, target, json!({}))
            .await
    }

    /// A port of the range that is neither reserved nor taken by another program. The
    /// search begins anywhere, so that two programs seldom meet.
    fn free_port(&self, reserved: &[u16]) -> Result<u16> {
        let range = &self.parts.settings.ports;
        let ports = usize::from(range.end() - range.start()) + 1;
        let mut random = [0; 8];
        self.parts.random.fill(&mut random)?;
        let begin = usize::from_le_bytes(random) % ports;
        let rotated = range.clone().cycle().skip(begin).take(ports);
        let bindable = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let mut free = rotated
            .filter(|port| !reserved.contains(port))
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
        let reserved = tx.lock_ports(server.host).await?;
        tx.set_port(server.uid, self.free_port(&reserved)?).await?;
        tx.commit().await
    }

    async fn accept_delete(
        self,
        mut accepting: Accepting,
        delete: DeleteInstance,
    ) -> Result<Operation> {
        let instance = accepting.tx.lock_instance(&delete.name).await?;
        check_etag(&delete.etag, &instance.etag())?;
        let host = instance.active()?.host;
        let gone = self.host_is_gone(host).await?;
        match gone && delete.force {
            // What its host has left unfinished nobody else can finish.
            true => {
                accepting
                    .tx
                    .give_up_family(instance.uid, &host_gone())
                    .await?
            }
            false => accepting.tx.refuse_busy_family(instance.uid).await?,
        }
        self.refuse_kept(&mut accepting, &instance, &delete).await?;
        let mut target = Target::of(&instance)?;
        let plan = match gone {
            true if delete.force => {
                target.host = None;
                &operations::ABANDON_INSTANCE
            }
            true => {
                let message = "the host of the instance is gone; `force` gives its data up";
                return Err(Error::new(Reason::HostUnavailable, message)
                    .with_resource(delete.name.to_string()));
            }
            false if instance.delete_time.is_some() => &operations::PURGE_INSTANCE,
            false if delete.purge => &operations::REMOVE_INSTANCE,
            false => &operations::DELETE_INSTANCE,
        };
        if instance.delete_time.is_none() {
            accepting
                .tx
                .set_instance_state(instance.uid, State::Deleting, false)
                .await?;
        }
        let keep_seconds = self.parts.settings.purge_delay.as_secs_f64();
        let parameters = serde_json::to_value(DeleteInstanceParameters { keep_seconds })
            .map_err(|error| Error::internal("parameters").with_source(error))?;
        accepting.enqueue(plan, target, parameters).await
    }

    async fn refuse_kept(
        &self,
        accepting: &mut Accepting,
        instance: &Instance,
        delete: &DeleteInstance,
    ) -> Result<()> {
        let refuse = |reason, message: String| {
            Err(Error::new(reason, message).with_resource(delete.name.to_string()))
        };
        if instance.delete_time.is_some() && !delete.purge {
            let message = "the instance is deleted; `purge` lets it go at once";
            return refuse(Reason::InstanceDeleted, message.into());
        }
        if delete.force {
            return Ok(());
        }
        if instance.deletion_protection {
            let message = "deletion protection is on; `force` deletes all the same";
            return refuse(Reason::DeletionProtected, message.into());
        }
        let databases = accepting.tx.count_databases(instance.uid).await?;
        if databases > 0 && instance.delete_time.is_none() {
            let message =
                format!("the instance has {databases} databases; `force` deletes them too");
            return refuse(Reason::InstanceHasDatabases, message);
        }
        Ok(())
    }

    async fn host_is_gone(&self, host: Uuid) -> Result<bool> {
        if host == self.parts.host {
            return Ok(false);
        }
        let silence = self.parts.store.host_silence(host).await?;
        Ok(silence.is_none_or(|seconds| seconds > HOST_GONE))
    }

    async fn change(
        &self,
        mutation: Mutation,
        change: ChangeInstance,
        to: Change,
    ) -> Result<Operation> {
        self.mutate(mutation, move |app, accepting| {
            app.accept_change(accepting, change, to)
        })
        .await
    }

    async fn accept_change(
        self,
        mut accepting: Accepting,
        change: ChangeInstance,
        to: Change,
    ) -> Result<Operation> {
        let instance = accepting.tx.lock_instance(&change.name).await?;
        check_etag(&change.etag, &instance.etag())?;
        to.refuse_deleted(&instance)?;
        accepting.tx.refuse_busy_family(instance.uid).await?;
        let uid = instance.uid;
        let target = Target::of(&instance)?;
        if to.nothing_to_do(&instance) {
            let outcome = Outcome::Instance(Box::new(instance));
            return accepting.done(to.plan(), target, outcome).await;
        }
        match to {
            Change::Start | Change::Restart => {
                accepting
                    .tx
                    .set_instance_state(uid, State::Starting, true)
                    .await?;
            }
            Change::Stop => {
                accepting
                    .tx
                    .set_instance_state(uid, State::Stopping, false)
                    .await?
            }
            Change::Undelete => accepting.tx.mark_instance_undeleted(uid).await?,
        }
        accepting.enqueue(to.plan(), target, Value::Null).await
    }
}

/// What an instance's server is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Start,
    Stop,
    Restart,
    Undelete,
}

impl Change {
    fn plan(self) -> &'static Plan {
        match self {
            Self::Start => &operations::START_INSTANCE,
            Self::Stop => &operations::STOP_INSTANCE,
            Self::Restart => &operations::RESTART_INSTANCE,
            Self::Undelete => &operations::UNDELETE_INSTANCE,
        }
    }

    fn nothing_to_do(self, instance: &Instance) -> bool {
        match self {
            Self::Start => instance.state == State::Ready,
            Self::Stop => instance.state == State::Stopped,
            Self::Restart | Self::Undelete => false,
        }
    }

    fn refuse_deleted(self, instance: &Instance) -> Result<()> {
        let deleted = instance.delete_time.is_some();
        let (reason, message) = match (self, deleted) {
            (Self::Undelete, true) | (Self::Start | Self::Stop | Self::Restart, false) => {
                return Ok(());
            }
            (Self::Undelete, false) => (Reason::InstanceNotDeleted, "the instance is not deleted"),
            (_, true) => (
                Reason::InstanceDeleted,
                "the instance is deleted; undelete it first",
            ),
        };
        Err(Error::new(reason, message).with_resource(instance.name.to_string()))
    }
}

/// Why operations on a host that was given up have ended.
fn host_gone() -> Failure {
    Failure {
        reason: Reason::HostUnavailable.as_str().to_owned(),
        message: "the host of the instance is gone, and was given up".to_owned(),
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
    fn common(&self) -> Common<'_> {
        Common {
            id: &self.name.instance,
            create_time: self.create_time,
            update_time: self.update_time,
            labels: &self.labels,
        }
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
