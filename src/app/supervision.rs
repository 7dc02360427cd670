//! The supervisor: watches the servers of instances, whatever their role. It adopts servers that
//! run, and has a server that ends started again by an operation.
//!
//! Each watched server has one task, its watcher. A scan every few seconds starts the missing
//! watchers, so a watcher may simply end when it has nothing to do or has met an error.

mod ending;
mod pace;
mod terms;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use uuid::Uuid;

pub(super) use self::terms::Terms;
use self::{
    pace::{Paces, Pause},
    terms::Term,
};
use super::{
    admin::Servers,
    conditions::Conditions,
    hosts::Hosts,
    mutation::{Mutations, ResourceRef, parameters},
    operations::{self, RecoverParameters},
    tasks::{Tasks, warn},
};
use crate::{
    domain::{
        Result,
        clock::Clock,
        instance::{Condition, Instance, Server, State, Status},
        provider::Presence,
    },
    failpoint,
    store::Store,
};

/// Time between two scans for servers without a watcher.
const SCAN: Duration = Duration::from_secs(5);

/// How often a running server is inspected. A frozen process does not end, so no event reports
/// it.
const INSPECTION: Duration = Duration::from_secs(30);

/// Reason of the condition of a server that the supervisor has found down.
const ENDED: &str = "SERVER_ENDED";

/// Reason of the condition `Available` of a server that can be reached by TCP only.
const SOCKET_GONE: &str = "SOCKET_GONE";

/// Reason of the condition `Available` of a server whose socket is in another directory than
/// the settings say.
const SOCKET_ELSEWHERE: &str = "SOCKET_ELSEWHERE";

/// The servers that this process watches, and their recent recoveries.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Wakes the watcher of each server.
    watchers: Mutex<HashMap<Uuid, Arc<Notify>>>,
    paces: Mutex<Paces>,
}

impl Watched {
    /// Registers a watcher, and returns what wakes it; none if the server has a watcher already.
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

    /// Forgets the history of a server: its next recovery starts without a pause.
    fn forget(&self, uid: Uuid) {
        self.paces().forget(uid);
    }

    fn watchers(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Notify>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paces(&self) -> MutexGuard<'_, Paces> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unregisters a watcher when it is dropped, even by a panic.
struct Watching<'a> {
    watched: &'a Watched,
    uid: Uuid,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.watched.remove(self.uid);
    }
}

/// Watches servers and starts their recovery. Cheap to clone.
#[derive(Clone)]
pub(super) struct Supervisor {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) hosts: Hosts,
    pub(super) servers: Servers,
    pub(super) conditions: Conditions,
    pub(super) mutations: Mutations,
    pub(super) tasks: Tasks,
    pub(super) watched: Arc<Watched>,
    pub(super) terms: Arc<Terms>,
    /// Unique id of this process, the holder of its leases.
    pub(super) worker: Uuid,
    /// Length of the supervision lease. A silent process is replaced after that time.
    pub(super) lease: Duration,
}

impl Supervisor {
    /// Supervises until the process stops, then gives the leases back so that another process
    /// can take them at once.
    pub(super) async fn run(self) {
        let taken = Notify::new();
        tokio::select! {
            () = self.tasks.stopping() => {}
            () = self.keep_terms(&taken) => {}
            () = self.scan(&taken) => {}
        }
        warn("supervision", self.terms.give_back(&self.store).await);
    }

    /// Takes and renews the leases of both scopes: this host, and the servers without a host.
    async fn keep_terms(&self, taken: &Notify) {
        loop {
            for place in [self.hosts.here(), Uuid::nil()] {
                let keeping = self.terms.keep(&self.store, self.worker, place, self.lease);
                // Three attempts fit into a lease, so one that gets no answer does not lose it.
                let kept = tokio::time::timeout(self.lease / 5, keeping).await;
                match kept {
                    Ok(Ok(true)) => taken.notify_one(),
                    Ok(Ok(false)) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "cannot keep a lease"),
                    Err(_) => tracing::warn!("the lease of a place was not kept in time"),
                }
            }
            tokio::time::sleep(self.lease / 4).await;
        }
    }

    /// Starts missing watchers, every [`SCAN`] and whenever a lease was taken.
    async fn scan(&self, taken: &Notify) {
        loop {
            match self.store.instances_to_watch(self.hosts.here()).await {
                Ok(instances) => {
                    for instance in instances {
                        // The active server of a FAILED instance may be up. Its watcher may be
                        // waiting for the end of the server, and must look again to make the
                        // instance READY.
                        if instance.state == State::Failed
                            && !instance.reconciling
                            && let Ok(active) = instance.active()
                        {
                            self.watched.wake(active.uid);
                        }
                        self.look_after(&instance);
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot look for servers to watch"),
            }
            tokio::select! {
                () = tokio::time::sleep(SCAN) => {}
                () = taken.notified() => {}
            }
        }
    }

    /// Whether this process supervises that server now.
    pub(super) fn has_term(&self, server: &Server) -> bool {
        self.terms.of(server).is_some()
    }

    /// Forgets the history of a server: its next recovery starts without a pause.
    pub(super) fn forget(&self, server: Uuid) {
        self.watched.forget(server);
    }

    /// Whether a process of this host must watch the server. That is so if the server shall run,
    /// or if it did not stop and its end is awaited.
    pub(super) fn watches(&self, instance: &Instance, server: &Server) -> bool {
        let here = server.host().is_none_or(|host| host == self.hosts.here());
        let ends = server.is_active() && ending::may_end(instance);
        here && (instance.is_to_run(server) || ends)
    }

    /// Starts the missing watchers of an instance, in the background.
    pub(super) fn look_after_all(&self, instance: Uuid) {
        let supervisor = self.clone();
        self.tasks.spawn(async move {
            match supervisor.store.instance_by_uid(instance).await {
                Ok(Some(instance)) => supervisor.look_after(&instance),
                Ok(None) => {}
                // The next scan starts them.
                Err(error) => tracing::warn!(%instance, %error, "cannot read an instance"),
            }
        });
    }

    /// Starts watchers for the servers of an instance that need one and have none. Only with the
    /// lease of the server's scope: otherwise another process watches it.
    fn look_after(&self, instance: &Instance) {
        let servers = instance.servers.iter();
        for server in servers.filter(|server| self.watches(instance, server)) {
            let uid = server.uid;
            let Some(term) = self.terms.of(server) else {
                continue;
            };
            let Some(wake) = self.watched.insert(uid) else {
                continue;
            };
            let (supervisor, instance) = (self.clone(), instance.clone());
            self.tasks.spawn(async move {
                let watched = &supervisor.watched;
                let _watching = Watching { watched, uid };
                tokio::select! {
                    biased;
                    () = term.over() => {}
                    () = supervisor.tasks.stopping() => {}
                    watched = supervisor.watch(instance, uid, &wake, &term) => if let Err(error) = watched {
                        let detail = error.internal_detail();
                        tracing::warn!(server = %uid, %error, detail, "a server is not watched");
                    }
                }
            });
        }
    }

    /// Watches a server. Returns when the server shall not run any more, when it is down and the
    /// pause is not over, or when a recovery was enqueued. The next scan starts a new watcher.
    async fn watch(
        &self,
        mut instance: Instance,
        uid: Uuid,
        wake: &Notify,
        term: &Term,
    ) -> Result<()> {
        loop {
            let server = instance.server(uid);
            let Some(server) = server.filter(|server| instance.is_to_run(server)) else {
                self.watched.forget(uid);
                return self.see_the_end(&instance, term).await;
            };
            let spec = self.servers.server_spec(&instance, server, 0).await?;
            let provider = self.servers.provider_of(&spec.provider)?;
            let presence = provider.inspect(&spec).await;
            if let Err(error) = &presence {
                self.conditions.cannot_watch(&instance, server, error).await;
            }
            let presence = presence?;
            let up = !matches!(presence, Presence::Missing | Presence::Stopped);
            // A server that came up after its recovery has failed must make its instance READY
            // again.
            if !up || server.is_active() && instance.state == State::Failed {
                return self.recover_or_pause(&instance, server, up, term).await;
            }
            self.watched.paces().up(uid, Instant::now());
            match server.is_active() {
                true => self.is_up(&instance, presence).await?,
                false => self.is_up_beside(&instance, server).await?,
            }
            tokio::select! {
                changed = provider.changed(&spec, presence) => changed?,
                () = wake.notified() => {}
                () = tokio::time::sleep(failpoint::pause("supervision.inspection", INSPECTION)) => {}
            }
            let Some(now) = self.store.instance_by_uid(instance.uid).await? else {
                return Ok(());
            };
            instance = now;
        }
    }

    /// Records that the active server is up, where the conditions say something else.
    async fn is_up(&self, instance: &Instance, presence: Presence) -> Result<()> {
        let active = instance.active()?;
        let outdated = |condition: &Condition| {
            let noted = [SOCKET_GONE, SOCKET_ELSEWHERE].contains(&condition.reason.as_str());
            condition.is_available() && (condition.status != Status::True || noted)
        };
        if let Some((reason, message)) = socket_trouble(presence) {
            tracing::warn!(instance = %instance.name, reason, "the Unix socket of a server is not in its place");
            self.conditions
                .record_available(instance, active, Status::True, reason, message)
                .await?;
        } else if instance.conditions.iter().any(outdated) {
            let message = "the server takes connections";
            self.conditions
                .record_available(instance, active, Status::True, "SERVER_RUNNING", message)
                .await?;
            let mut tx = self.store.begin().await?;
            tx.wake_children(instance.uid).await?;
            tx.commit().await?;
        }
        // An earlier release did not close it, or the owner has opened it again.
        if let Err(error) = self.servers.close_to_public(instance).await {
            tracing::warn!(instance = %instance.name, %error, "`postgres` may be open to PUBLIC");
        }
        Ok(())
    }

    /// Removes the condition of a server beside the active one: it is up, so there is nothing to
    /// show.
    async fn is_up_beside(&self, instance: &Instance, server: &Server) -> Result<()> {
        if instance.availability_of(server).is_none() {
            return Ok(());
        }
        let mut tx = self.store.begin().await?;
        tx.clear_instance_condition(instance.uid, &server.availability())
            .await?;
        tx.commit().await
    }

    /// Enqueues a recovery, at once or after a pause.
    async fn recover_or_pause(
        &self,
        instance: &Instance,
        server: &Server,
        up: bool,
        term: &Term,
    ) -> Result<()> {
        // The running operation may start or stop the server. The next scan looks again.
        if self.is_worked_on(instance, server).await? {
            return Ok(());
        }
        let pause = self.watched.paces().down(server.uid, Instant::now());
        match pause {
            Pause::Over => self.recover(instance, server, up, term).await,
            Pause::GoesOn => Ok(()),
            Pause::Begins(pause) => {
                let seconds = pause.as_secs();
                tracing::warn!(
                    instance = %instance.name,
                    server = server.number,
                    seconds,
                    "a server does not stay up, it is started after a pause"
                );
                self.announce_pause(instance, server).await
            }
        }
    }

    async fn is_worked_on(&self, instance: &Instance, server: &Server) -> Result<bool> {
        if server.is_active() {
            return Ok(instance.reconciling);
        }
        let mut tx = self.store.begin().await?;
        tx.is_worked_on(instance.uid, server.uid).await
    }

    /// Shows that the server will be started after a pause, unless a more precise reason is
    /// shown.
    async fn announce_pause(&self, instance: &Instance, server: &Server) -> Result<()> {
        if why_it_failed_is_known(instance, server) {
            return Ok(());
        }
        let message = "the server's process ends again and again; it is started after a pause";
        self.conditions
            .record_available(instance, server, Status::False, ENDED, message)
            .await
    }

    /// Enqueues a recovery of a server, unless an operation works on the server. Operations on
    /// databases do not prevent it: they need the active server, and other servers do not matter
    /// to them.
    async fn recover(
        &self,
        instance: &Instance,
        server: &Server,
        up: bool,
        term: &Term,
    ) -> Result<()> {
        failpoint::hit("supervision.before_recover");
        let mut accepting = self.mutations.own("recover").await?;
        let Some(now) = accepting.tx.lock_instance_by_uid(instance.uid).await? else {
            return Ok(());
        };
        // The lease is checked in this transaction: another process of this host may have taken
        // over the supervision. The revision shows whether the instance has changed since the
        // inspection.
        if !accepting.tx.holds_lease(term.held).await? {
            tracing::warn!(
                instance = %now.name,
                "a server is not started by this process any more"
            );
            return Ok(());
        }
        if now.revision != instance.revision {
            return Ok(());
        }
        let Some(server) = now.server(server.uid).filter(|it| now.is_to_run(it)) else {
            return Ok(());
        };
        let target = match server.is_active() {
            true if now.reconciling => return Ok(()),
            true => {
                let state = State::Starting;
                accepting.tx.set_instance_state(now.uid, state).await?;
                ResourceRef::of(&now)
            }
            false if accepting.tx.is_worked_on(now.uid, server.uid).await? => return Ok(()),
            false => ResourceRef::of_server(&now, server),
        };
        if !why_it_failed_is_known(&now, server) {
            let message = "the server's process has ended; it is being started again";
            let time = self.clock.now();
            let condition = server.available(Status::False, ENDED, message, time);
            accepting
                .tx
                .set_instance_condition(now.uid, &condition)
                .await?;
        }
        let (name, number, uid) = (&now.name, server.number, server.uid);
        match up {
            true => tracing::info!(instance = %name, "a server has come up after all"),
            false => tracing::warn!(
                instance = %name,
                server = number,
                "a server is down, it is started again"
            ),
        }
        let recovery = parameters(RecoverParameters { ended: !up })?;
        accepting
            .enqueue(&operations::RECOVER_INSTANCE, target, recovery)
            .await?;
        self.watched.paces().recovers(uid);
        Ok(())
    }
}

/// What there is to say of the socket of a server that is up: a reason and a message.
fn socket_trouble(presence: Presence) -> Option<(&'static str, &'static str)> {
    match presence {
        Presence::SocketGone => Some((
            SOCKET_GONE,
            "the server takes connections by TCP, but its Unix socket is gone: a restart of the \
             instance makes it anew",
        )),
        Presence::SocketElsewhere => Some((
            SOCKET_ELSEWHERE,
            "the server takes connections, and its Unix socket is where a former \
             local.run_directory put it: a restart of the instance moves it",
        )),
        Presence::Missing | Presence::Stopped | Presence::Running => None,
    }
}

/// Whether the metadata already says why the last start has failed. That is more useful than the
/// fact that the process has ended, so it is not overwritten.
fn why_it_failed_is_known(instance: &Instance, server: &Server) -> bool {
    match server.is_active() {
        true => instance.state == State::Failed && instance.is_down(),
        false => {
            let known = instance.availability_of(server);
            known.is_some_and(|known| known.status == Status::False && known.reason != ENDED)
        }
    }
}
