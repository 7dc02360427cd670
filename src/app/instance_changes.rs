//! Use cases that change existing instances: start, stop, restart, delete and undelete.

use std::time::Duration;

use serde_json::Value;

use super::{
    Instances, Mutation,
    mutation::{Accepting, ResourceRef, parameters},
    operations::{self, DeleteInstanceParameters, Plan, PurgeInstanceParameters},
    withdrawal::{Withdrawable, take_back},
};
use crate::{
    domain::{
        Error, Reason, Result,
        instance::{Instance, ServerGoal, State, check_etag},
        name::InstanceName,
        operation::{Operation, Outcome},
    },
    store::{Tx, operations::Family},
};

/// Arguments of DeleteInstance.
#[derive(Clone, Debug)]
pub struct DeleteInstance {
    /// Resource name.
    pub name: InstanceName,
    /// Etag that the instance must have; empty for any.
    pub etag: String,
    /// Whether to delete it although it has databases or is protected. With `purge` this also
    /// works if its host is gone.
    pub force: bool,
    /// Whether to delete the data at once.
    pub purge: bool,
}

/// Arguments of StartInstance, StopInstance, RestartInstance and UndeleteInstance.
#[derive(Clone, Debug)]
pub struct ChangeInstance {
    /// Resource name.
    pub name: InstanceName,
    /// Etag that the instance must have; empty for any.
    pub etag: String,
}

impl Instances {
    /// Deletes an instance.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND, ETAG_MISMATCH, RESOURCE_BUSY, DELETION_PROTECTED,
    /// INSTANCE_HAS_DATABASES, INSTANCE_DELETED, HOST_UNAVAILABLE.
    pub async fn delete(&self, mutation: Mutation, delete: DeleteInstance) -> Result<Operation> {
        let instances = self.clone();
        let accept = move |accepting| instances.accept_delete(accepting, delete);
        self.mutations.accept(mutation, accept).await
    }

    /// Restores a deleted instance.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND, INSTANCE_NOT_DELETED, ETAG_MISMATCH, RESOURCE_BUSY,
    /// HOST_UNAVAILABLE.
    pub async fn undelete(&self, mutation: Mutation, change: ChangeInstance) -> Result<Operation> {
        self.change(mutation, change, Change::Undelete).await
    }

    /// Starts a stopped instance.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND, INSTANCE_DELETED, ETAG_MISMATCH, RESOURCE_BUSY,
    /// HOST_UNAVAILABLE.
    pub async fn start(&self, mutation: Mutation, change: ChangeInstance) -> Result<Operation> {
        self.change(mutation, change, Change::Start).await
    }

    /// Stops an instance.
    ///
    /// # Errors
    /// As [`Instances::start`].
    pub async fn stop(&self, mutation: Mutation, change: ChangeInstance) -> Result<Operation> {
        self.change(mutation, change, Change::Stop).await
    }

    /// Stops and starts an instance again.
    ///
    /// # Errors
    /// As [`Instances::start`].
    pub async fn restart(&self, mutation: Mutation, change: ChangeInstance) -> Result<Operation> {
        self.change(mutation, change, Change::Restart).await
    }

    async fn accept_delete(
        self,
        mut accepting: Accepting,
        delete: DeleteInstance,
    ) -> Result<Operation> {
        let everything = delete.force && delete.purge;
        accepting.tx.lock_family(&delete.name).await?;
        let instance = accepting.tx.lock_instance(&delete.name).await?;
        check_etag(&delete.etag, &instance.etag())?;
        // Whether no living process can reach any of its servers.
        let mut servers = instance.servers.iter();
        let gone = servers.all(|server| self.hosts.gone_time(server).is_some());
        if everything && gone && !self.metadata_clock.is_steady().await? {
            return Err(unsteady(&instance));
        }
        // The server may still run, and after this its records and passwords are lost for ever.
        if !everything {
            accepting = self
                .hosts
                .refuse_gone(accepting, &instance, &instance.servers)
                .await?;
        }
        let tx = &mut accepting.tx;
        if everything && !gone {
            // A removal that has begun continues, and keeps the time that it has already waited.
            tx.refuse_removing(instance.uid).await?;
        }
        if delete.force {
            // With `purge` everything is ended. The data is deleted anyway, and an operation on a
            // server that hangs, or whose host is gone, would never end by itself.
            let which = match everything {
                true => Family::All,
                false => Family::Undoing,
            };
            tx.give_up_family(instance.uid, which).await?;
        }
        tx.give_up_start(instance.uid).await?;
        tx.refuse_busy(instance.uid).await?;
        self.refuse_kept(&mut accepting, &instance, &delete).await?;
        // Operations on its databases that are being undone become pointless with the instance.
        accepting
            .tx
            .give_up_family(instance.uid, Family::Undoing)
            .await?;
        let mut target = ResourceRef::of(&instance);
        let plan = if gone {
            target.host = None;
            &operations::ABANDON_INSTANCE
        } else if instance.delete_time.is_some() {
            &operations::PURGE_INSTANCE
        } else if delete.purge {
            &operations::REMOVE_INSTANCE
        } else {
            &operations::DELETE_INSTANCE
        };
        let goal = match delete.purge {
            true => ServerGoal::Gone,
            false => ServerGoal::Stopped,
        };
        want(&mut accepting.tx, &instance, goal).await?;
        if instance.delete_time.is_none() {
            accepting
                .tx
                .set_instance_state(instance.uid, State::Deleting)
                .await?;
            let message = "the instance is being deleted";
            self.conditions
                .set_unavailable(&mut accepting.tx, instance.uid, "DELETING", message)
                .await?;
        }
        let keep_seconds = self.purge_delay.as_secs_f64();
        let parameters = match instance.delete_time {
            Some(_) => parameters(PurgeInstanceParameters { requested: true })?,
            None => parameters(DeleteInstanceParameters { keep_seconds })?,
        };
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
        let streams = accepting.tx.count_change_streams(instance.uid).await?;
        if streams > 0 && instance.delete_time.is_none() {
            let message =
                format!("the instance has {streams} change streams; `force` deletes them too");
            return refuse(Reason::InstanceHasChangeStreams, message);
        }
        Ok(())
    }

    async fn change(
        &self,
        mutation: Mutation,
        change: ChangeInstance,
        to: Change,
    ) -> Result<Operation> {
        let instances = self.clone();
        let accept = move |accepting| instances.accept_change(accepting, change, to);
        self.mutations.accept(mutation, accept).await
    }

    async fn accept_change(
        self,
        mut accepting: Accepting,
        change: ChangeInstance,
        to: Change,
    ) -> Result<Operation> {
        if to.takes_the_place_of_a_start() {
            accepting.tx.lock_start(&change.name).await?;
        }
        let queued = match to {
            Change::Start => accepting.tx.lock_queued_on(&change.name).await?,
            Change::Stop | Change::Restart | Change::Undelete => None,
        };
        let mut instance = accepting.tx.lock_instance(&change.name).await?;
        check_etag(&change.etag, &instance.etag())?;
        to.refuse_deleted(&instance)?;
        accepting = self
            .hosts
            .refuse_gone(accepting, &instance, &instance.servers)
            .await?;
        let uid = instance.uid;
        if to.takes_the_place_of_a_start() {
            accepting.tx.give_up_start(uid).await?;
        }
        if let Some(queued) = queued {
            let why = "another call on the instance has taken its place";
            take_back(&mut accepting.tx, queued, why, self.clock.now()).await?;
            let now = accepting.tx.instance_by_uid(uid).await?;
            instance = now.ok_or_else(|| Error::internal("a locked instance is gone"))?;
        }
        // Operations on its databases do not prevent a start: they may wait for exactly this.
        accepting.tx.refuse_busy(uid).await?;
        let target = ResourceRef::of(&instance);
        if to.nothing_to_do(&instance) {
            let outcome = Outcome::Instance(Box::new(instance));
            return accepting.done(to.plan(), target, outcome).await;
        }
        match to {
            Change::Start | Change::Restart => {
                accepting
                    .tx
                    .set_instance_state(uid, State::Starting)
                    .await?
            }
            Change::Stop => {
                accepting
                    .tx
                    .set_instance_state(uid, State::Stopping)
                    .await?
            }
            Change::Undelete => accepting.tx.mark_instance_undeleted(uid).await?,
        }
        let goal = match to {
            Change::Start | Change::Restart | Change::Undelete => ServerGoal::Running,
            Change::Stop => ServerGoal::Stopped,
        };
        want(&mut accepting.tx, &instance, goal).await?;
        let (reason, message) = to.unavailable();
        self.conditions
            .set_unavailable(&mut accepting.tx, uid, reason, message)
            .await?;
        let parameters = match to {
            Change::Stop | Change::Restart => parameters(Withdrawable::of(&instance)?)?,
            Change::Start | Change::Undelete => Value::Null,
        };
        accepting.enqueue(to.plan(), target, parameters).await
    }
}

/// The error while the clock cannot be trusted: a wrong clock could make a host look silent.
fn unsteady(instance: &Instance) -> Error {
    let message = "whether the host is gone cannot be told yet: this process has started, or the \
         metadata database's clock has stepped, within the last five minutes, and what is given \
         up cannot be had back";
    Error::new(Reason::HostUnavailable, message)
        .with_resource(instance.name.to_string())
        .with_retry_after(Duration::from_secs(300))
}

/// Sets the goal of all servers of an instance. Clears the conditions of the servers beside the
/// active one, which described the former goal.
async fn want(tx: &mut Tx, instance: &Instance, goal: ServerGoal) -> Result<()> {
    tx.want(instance.uid, goal).await?;
    for server in instance.servers.iter().filter(|server| !server.is_active()) {
        tx.clear_instance_condition(instance.uid, &server.availability())
            .await?;
    }
    Ok(())
}

/// A change of the servers' goal.
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

    /// Whether it ends a recovery, which may wait for a long time, or a start that waits.
    const fn takes_the_place_of_a_start(self) -> bool {
        matches!(self, Self::Stop | Self::Restart)
    }

    fn nothing_to_do(self, instance: &Instance) -> bool {
        match self {
            Self::Start => instance.state == State::Ready && !instance.is_down(),
            Self::Stop => instance.state == State::Stopped,
            Self::Restart | Self::Undelete => false,
        }
    }

    /// Reason and message of the condition `Available` from now on.
    fn unavailable(self) -> (&'static str, &'static str) {
        match self {
            Self::Start | Self::Undelete => ("STARTING", "the server is being started"),
            Self::Stop => ("STOPPING", "the server is being stopped"),
            Self::Restart => ("RESTARTING", "the server is being stopped and started"),
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
