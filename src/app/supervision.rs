//! Looks after the local servers: adopts those that run, and sees to it that one
//! that dies is started again.

mod pace;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use uuid::Uuid;

use self::pace::{Paces, Pause};
use super::{
    App,
    mutation::{Target, parameters},
    operations::{self, RecoverParameters},
};
use crate::{
    domain::{
        Error, Result,
        instance::{Condition, Instance, Server, ServerGoal, State, Status},
        provider::Presence,
    },
    store::Tx,
};

/// How often it is looked for servers that nobody watches.
const SCAN: Duration = Duration::from_secs(5);

/// How often a running server is inspected: its process may be frozen.
const INSPECTION: Duration = Duration::from_secs(30);

/// Reason of the condition `Available` of a server that is reached by TCP alone.
const SOCKET_GONE: &str = "SOCKET_GONE";

/// Instances whose server is being watched by this process, and how often each was
/// recovered lately.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// What wakes the watcher of each instance.
    watchers: Mutex<HashMap<Uuid, Arc<Notify>>>,
    paces: Mutex<Paces>,
}

impl Watched {
    /// What wakes the new watcher, unless there is one.
    fn insert(&self, uid: Uuid) -> Option<Arc<Notify>> {
        match self.watchers().entry(uid) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => Some(Arc::clone(free.insert(Arc::default()))),
        }
    }

    fn wake(&self, uid: Uuid) {
        if let Some(wake) = self.watchers().get(&uid) {
            wake.notify_one();
        }
    }

    fn remove(&self, uid: Uuid) {
        self.watchers().remove(&uid);
    }

    /// Its next recovery is the first one.
    pub(in crate::app) fn forget(&self, uid: Uuid) {
        self.paces().forget(uid);
    }

    fn watchers(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Notify>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paces(&self) -> MutexGuard<'_, Paces> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server is not watched any more when this is dropped, by a panic too.
struct Watching<'a> {
    app: &'a App,
    uid: Uuid,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.app.watched.remove(self.uid);
    }
}

/// Adopts the servers of this host, and again whenever one has no watcher.
pub(super) async fn run(app: App) {
    loop {
        match app.parts.store.instances_to_watch(app.parts.host).await {
            Ok(instances) => {
                for instance in instances {
                    // Its server may be up, and its watcher wait for the end.
                    if instance.state == State::Failed && !instance.reconciling {
                        app.watched.wake(instance.uid);
                    }
                    app.look_after(instance.uid);
                }
            }
            Err(error) => tracing::warn!(%error, "cannot look for servers to watch"),
        }
        tokio::select! {
            () = app.stopping.cancelled() => return,
            () = tokio::time::sleep(SCAN) => {}
        }
    }
}

impl App {
    /// Watches an instance's server, unless it is being watched.
    pub(super) fn look_after(&self, uid: Uuid) {
        let Some(wake) = self.watched.insert(uid) else {
            return;
        };
        let app = self.clone();
        self.tasks.spawn(async move {
            let _watching = Watching { app: &app, uid };
            tokio::select! {
                () = app.stopping.cancelled() => {}
                watched = app.watch(uid, &wake) => if let Err(error) = watched {
                    let detail = error.internal_detail();
                    tracing::warn!(instance = %uid, %error, detail, "a server is not watched");
                }
            }
        });
    }

    /// A server that cannot be taken for the one on record, or looked at, is no secret.
    async fn cannot_watch(&self, uid: Uuid, error: &Error) {
        let reason = error.reason();
        let told = self.record_available(uid, Status::Unknown, reason.as_str(), error.message());
        if let Err(error) = told.await {
            tracing::warn!(instance = %uid, %error, "cannot record a condition");
        }
    }

    /// Records whether a server is available, if that is news.
    async fn record_available(
        &self,
        uid: Uuid,
        status: Status,
        reason: &str,
        message: &str,
    ) -> Result<()> {
        let condition = Condition::available(status, reason, message, self.parts.clock.now());
        self.record_condition(uid, &condition).await
    }

    /// Records that a server does not take connections, or will not in a moment.
    pub(super) async fn set_unavailable(
        &self,
        tx: &mut Tx,
        uid: Uuid,
        reason: &str,
        message: &str,
    ) -> Result<()> {
        let time = self.parts.clock.now();
        let condition = Condition::available(Status::False, reason, message, time);
        tx.set_instance_condition(uid, &condition).await
    }

    /// Records a condition of an instance that is at rest and meant to run, if it is
    /// news: otherwise an operation knows better.
    pub(super) async fn record_condition(&self, uid: Uuid, condition: &Condition) -> Result<()> {
        let mut tx = self.parts.store.begin().await?;
        let Some(now) = tx.lock_instance_by_uid(uid).await? else {
            return Ok(());
        };
        if now.reconciling || !meant_to_run(&now) {
            return Ok(());
        }
        if now.conditions.iter().any(|known| known.says(condition)) {
            return Ok(());
        }
        tx.set_instance_condition(uid, condition).await?;
        tx.commit().await
    }

    /// Returns when the server is not meant to run any more, when it is down and a pause
    /// has to pass, or when a recovery was asked for; the next scan watches it again.
    async fn watch(&self, uid: Uuid, wake: &Notify) -> Result<()> {
        loop {
            let Some(instance) = self.parts.store.instance_by_uid(uid).await? else {
                return Ok(());
            };
            if !meant_to_run(&instance) {
                self.watched.forget(uid);
                return Ok(());
            }
            let server = self.server_spec(&instance, 0).await?;
            let provider = self.provider_of(&server.provider)?;
            let presence = provider.inspect(&server).await;
            if let Err(error) = &presence {
                self.cannot_watch(uid, error).await;
            }
            let presence = presence?;
            let up = matches!(presence, Presence::Running | Presence::SocketGone);
            // One that came up after its recovery was given up is to be READY again.
            if !up || instance.state == State::Failed {
                return self.recover_or_pause(&instance, up).await;
            }
            self.is_up(&instance, presence).await?;
            tokio::select! {
                changed = provider.changed(&server, presence) => changed?,
                () = wake.notified() => {}
                () = tokio::time::sleep(INSPECTION) => {}
            }
        }
    }

    async fn is_up(&self, instance: &Instance, presence: Presence) -> Result<()> {
        self.watched.paces().up(instance.uid, Instant::now());
        let outdated = |condition: &Condition| {
            condition.is_available()
                && (condition.status != Status::True || condition.reason == SOCKET_GONE)
        };
        if presence == Presence::SocketGone {
            tracing::warn!(instance = %instance.name, "the Unix socket of a server is gone");
            let message = "the server takes connections by TCP, but its Unix socket is gone: a \
                 restart of the instance makes it anew";
            self.record_available(instance.uid, Status::True, SOCKET_GONE, message)
                .await?;
        } else if instance.conditions.iter().any(outdated) {
            let message = "the server takes connections";
            self.record_available(instance.uid, Status::True, "SERVER_RUNNING", message)
                .await?;
            let mut tx = self.parts.store.begin().await?;
            tx.wake_children(instance.uid).await?;
            tx.commit().await?;
        }
        // A server of a former release, or one whose owner opened it again.
        if let Err(error) = self.close_to_public(instance).await {
            tracing::warn!(instance = %instance.name, %error, "`postgres` may be open to PUBLIC");
        }
        Ok(())
    }

    /// Brings an instance back to READY, at once or after a pause.
    async fn recover_or_pause(&self, instance: &Instance, up: bool) -> Result<()> {
        // An operation is at work: whether the server stays up is seen after it.
        if instance.reconciling {
            return Ok(());
        }
        let pause = self.watched.paces().down(instance.uid, Instant::now());
        match pause {
            Pause::Over => self.recover(instance, up).await,
            Pause::GoesOn => Ok(()),
            Pause::Begins(pause) => {
                let seconds = pause.as_secs();
                tracing::warn!(
                    instance = %instance.name,
                    seconds,
                    "a server does not stay up, it is started after a pause"
                );
                self.announce_pause(instance).await
            }
        }
    }

    async fn announce_pause(&self, instance: &Instance) -> Result<()> {
        // Why the last try has failed is better to know.
        if instance.state == State::Failed {
            return Ok(());
        }
        let message = "the server's process ends again and again; it is started after a pause";
        self.record_available(instance.uid, Status::False, "SERVER_ENDED", message)
            .await
    }

    /// Asks for the server to be started again, unless an operation is at work on the
    /// instance. Operations on its databases are no reason to wait: they cannot go on
    /// without the server.
    async fn recover(&self, instance: &Instance, up: bool) -> Result<()> {
        let mut accepting = self.own("recover").await?;
        let Some(now) = accepting.tx.lock_instance_by_uid(instance.uid).await? else {
            return Ok(());
        };
        // Another process of this host may have had it started meanwhile.
        if !meant_to_run(&now) || now.reconciling || now.revision != instance.revision {
            return Ok(());
        }
        accepting
            .tx
            .set_instance_state(now.uid, State::Starting)
            .await?;
        // Why the last try has failed is better to know.
        if now.state != State::Failed || !now.is_down() {
            let message = "the server's process has ended; it is being started again";
            self.set_unavailable(&mut accepting.tx, now.uid, "SERVER_ENDED", message)
                .await?;
        }
        match up {
            true => tracing::info!(instance = %now.name, "a server has come up after all"),
            false => {
                tracing::warn!(instance = %now.name, "a server has ended, it is started again")
            }
        }
        let target = Target::of(&now)?;
        let recovery = parameters(RecoverParameters { ended: !up })?;
        accepting
            .enqueue(&operations::RECOVER_INSTANCE, target, recovery)
            .await?;
        self.watched.paces().recovers(now.uid);
        Ok(())
    }
}

fn meant_to_run(instance: &Instance) -> bool {
    let to_run = |server: &Server| server.started && server.wanted == ServerGoal::Running;
    instance.delete_time.is_none() && instance.active().is_ok_and(to_run)
}
