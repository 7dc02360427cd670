//! Temporary subscriptions: how they read changes, and how their objects are removed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    admin::{Servers, Session, execute, fetch, sqlstate},
    shutting_down,
    tasks::Tasks,
};
use crate::{
    domain::{
        Error, Reason, Result, instance::Server, name::InstanceName, postgres::PostgresName,
        random::Random,
    },
    failpoint,
    pg::sql::quote_identifier,
    store::{Store, leases::Held, subscriptions::Subscription as Record},
    streams::{EncodedBatch, Feed, Opening, Request, Source},
};

/// Length of a subscription's lease. Another process removes a subscription whose lease has
/// expired. It is also the limit of one removal, so that a server that does not answer does not
/// delay the others.
pub(super) const LEASE: Duration = Duration::from_secs(60);

/// Pause between two rounds of renewals and removals.
const INTERVAL: Duration = Duration::from_secs(10);

/// How long sessions get to notice that their client is gone, and how often that is checked.
const GRACE: Duration = Duration::from_secs(1);
const GRACE_LOOKS: u32 = 20;

/// The subscriptions that are open in this process.
#[derive(Debug, Default)]
pub(super) struct Open(Mutex<HashMap<Held, CancellationToken>>);

impl Open {
    /// Registers a subscription. Returns a token that is cancelled when its lease is lost.
    pub(super) fn insert(&self, held: Held) -> CancellationToken {
        self.all().entry(held).or_default().clone()
    }

    pub(super) fn remove(&self, held: Held) {
        self.all().remove(&held);
    }

    fn held(&self) -> Vec<Held> {
        self.all().keys().copied().collect()
    }

    /// Ends the subscriptions whose leases are lost.
    fn end(&self, lost: &[Held]) {
        let all = self.all();
        for ended in lost.iter().filter_map(|held| all.get(held)) {
            ended.cancel();
        }
    }

    /// Whether this process holds it.
    pub(super) fn holds(&self, resource: Uuid) -> bool {
        self.all().keys().any(|held| held.resource == resource)
    }

    /// Ends what holds a resource with another token.
    pub(super) fn end_others(&self, held: Held) {
        let all = self.all();
        let others = all
            .iter()
            .filter(|(other, _)| other.resource == held.resource && other.token != held.token);
        others.for_each(|(_, ended)| ended.cancel());
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Held, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permit of an open stream. It is held until the slot and the publications are removed.
pub type Permit = Arc<dyn Send + Sync>;

/// The changes of a subscription. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Changes(pub(super) Feed);

impl Changes {
    /// The next batch; it may be a heartbeat. Nothing follows after an error.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<EncodedBatch>>> {
        self.0.poll_next(context)
    }
}

/// A recorded temporary subscription. When it is dropped, its objects on the server are removed
/// in the background; it counts as open until then.
struct Subscription {
    subscriptions: Subscriptions,
    record: Record,
    held: Held,
    /// Cancelled when the lease is lost: another process sweeps the subscription.
    lost: CancellationToken,
    permit: Option<Permit>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let subscriptions = self.subscriptions.clone();
        let (record, held) = (self.record.clone(), self.held);
        let permit = self.permit.take();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The process ends: another process will remove the objects.
            return;
        };
        let sweeping = async move {
            // While the lease is valid only this process removes the objects. If that fails, the
            // lease is ended so that the next round of a process tries again.
            if let Err(error) = subscriptions.sweep(&record).await {
                let detail = error.internal_detail();
                tracing::warn!(%error, detail, subscription = %record.uid, "a subscription is to be swept later");
                let store = &subscriptions.store;
                let at_once = store.renew_leases(&[held], 0.0).await;
                // If this fails too, the lease expires by itself.
                let _ = at_once;
            }
            subscriptions.open.remove(held);
            drop(permit);
        };
        self.subscriptions.tasks.spawn_on(sweeping, &runtime);
    }
}

/// Use case of subscriptions. Cheap to clone.
#[derive(Clone)]
pub struct Subscriptions {
    pub(super) store: Store,
    pub(super) random: Arc<dyn Random>,
    pub(super) servers: Servers,
    pub(super) tasks: Tasks,
    /// This host, and this process's worker.
    pub(super) host: Uuid,
    pub(super) worker: Uuid,
    pub(super) open: Arc<Open>,
}

impl Subscriptions {
    /// Follows the changes of a database with a temporary slot. The `permit` is released when
    /// the objects of the subscription are gone from the server.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND, INSTANCE_NOT_READY; as [`Opening::prepare`].
    pub async fn subscribe(
        &self,
        name: &InstanceName,
        database: &PostgresName,
        request: Request,
        permit: Option<Permit>,
    ) -> Result<Changes> {
        let instance = self.store.instance(name).await?.whole()?;
        instance.require_ready()?;
        let server = instance.active()?;
        let access = self
            .servers
            .access_to(&instance, server, database.as_str())
            .await?;
        let subscription = self.record(server, database, permit).await?;
        let record = &subscription.record;
        let source = Source {
            uid: record.uid,
            secret: self.random.uuid()?,
            target: access.target,
            login: access.login,
            slot: record.slot.clone(),
        };
        let (draining, lost) = (self.tasks.draining(), subscription.lost.clone());
        // The end does not depend on the subscriber's reading: slot and publications are removed
        // at once.
        let uid = subscription.record.uid;
        let stop = async move {
            tokio::select! {
                () = draining.cancelled() => shutting_down(),
                () = lost.cancelled() => {
                    tracing::warn!(subscription = %uid, "the lease of a subscription is lost");
                    lease_lost()
                }
            }
        };
        let mut stop = Box::pin(stop);
        let opening = Opening::prepare(source, request, self.confirm(subscription.held));
        let opening = tokio::select! {
            opening = opening => opening?,
            error = &mut stop => return Err(error),
        };
        Ok(Changes(opening.run(stop, subscription)))
    }

    /// Records a subscription before it creates anything on its server.
    async fn record(
        &self,
        server: &Server,
        database: &PostgresName,
        permit: Option<Permit>,
    ) -> Result<Subscription> {
        let uid = self.random.uuid()?;
        let record = Record {
            uid,
            server_uid: server.uid,
            database: database.to_string(),
            slot: format!("howdah_tmp_{}", uid.simple()),
        };
        let lease = LEASE.as_secs_f64();
        let store = &self.store;
        let held = store
            .insert_subscription(&record, self.worker, lease)
            .await?;
        Ok(Subscription {
            lost: self.open.insert(held),
            subscriptions: self.clone(),
            record,
            held,
            permit,
        })
    }

    /// Returns an error if another process has taken over the subscription, because this one was
    /// frozen for longer than the lease. The subscription is connected to its server already, so
    /// a removal that begins after this check ends that connection.
    async fn confirm(&self, held: Held) -> Result<()> {
        failpoint::hit("subscription.before_confirm");
        let renewed = self
            .store
            .renew_leases(&[held], LEASE.as_secs_f64())
            .await?;
        match renewed.is_empty() {
            true => Err(lease_lost()),
            false => Ok(()),
        }
    }

    /// Renews the leases of open subscriptions, and ends those that are lost.
    async fn renew(&self) -> Result<()> {
        let mut held = self.open.held();
        let lease = LEASE.as_secs_f64();
        let renewed = self.store.renew_leases(&held, lease).await?;
        held.retain(|held| !renewed.contains(held));
        self.open.end(&held);
        Ok(())
    }

    /// Removes the objects that dead processes have left on the servers of this host.
    async fn sweep_stale(&self) -> Result<()> {
        let (host, worker, lease) = (self.host, self.worker, LEASE.as_secs_f64());
        let store = &self.store;
        let stale = store.claim_stale_subscriptions(host, worker, lease).await?;
        let sweeps = stale.iter().map(async |record| {
            if let Err(error) = self.sweep(record).await {
                let detail = error.internal_detail();
                tracing::warn!(%error, detail, subscription = %record.uid, "cannot sweep a subscription");
            }
        });
        futures::future::join_all(sweeps).await;
        Ok(())
    }

    /// Removes the objects of a subscription, within the time of a lease.
    async fn sweep(&self, record: &Record) -> Result<()> {
        let swept = tokio::time::timeout(LEASE, self.remove(record)).await;
        swept.unwrap_or_else(|_| {
            let message = "the instance's server does not answer";
            Err(Error::new(Reason::ServerUnavailable, message))
        })
    }

    /// Removes the objects from the server that they were created on, whatever its role is now:
    /// first the slot, which ends with its walsender, then the publications, then the record.
    async fn remove(&self, record: &Record) -> Result<()> {
        let store = &self.store;
        let instance = store.instance_of_server(record.server_uid).await?;
        let found = instance.as_ref().and_then(|instance| {
            let server = instance.server(record.server_uid)?;
            Some((instance, server))
        });
        // The record was deleted together with the server.
        let Some((instance, server)) = found else {
            return Ok(());
        };
        let database = &record.database;
        let client = match self.servers.connection_to(instance, server, database).await {
            Ok(client) => client,
            // The objects were dropped together with the database.
            Err(error) if sqlstate(&error) == Some("3D000") => {
                return store.remove_subscription(record.uid).await;
            }
            Err(error) => return Err(error),
        };
        end_sessions(&client, record).await?;
        drop_publications(&client, &record.slot).await?;
        store.remove_subscription(record.uid).await
    }

    /// Renews leases and removes objects until the process stops. The renewals do not wait for a
    /// removal; otherwise another process would take open subscriptions for dead.
    pub(super) async fn run(self) {
        let renewing = async {
            loop {
                log_failure(self.renew().await);
                tokio::time::sleep(INTERVAL).await;
            }
        };
        let sweeping = async {
            loop {
                log_failure(self.sweep_stale().await);
                tokio::time::sleep(INTERVAL).await;
            }
        };
        tokio::select! {
            // An interrupted removal is repeated by another process.
            () = self.tasks.stopping() => {}
            () = renewing => {}
            () = sweeping => {}
        }
    }
}

/// The error of a subscription that another process has taken over.
fn lease_lost() -> Error {
    let message = "this process has shown no sign of life of the subscription for a minute, and \
         another one has removed it: subscribe again";
    Error::new(Reason::ServerUnavailable, message).with_retry_after(Duration::from_secs(1))
}

fn log_failure(ended: Result<()>) {
    if let Err(error) = ended {
        tracing::warn!(%error, detail = error.internal_detail(), "cannot look after subscriptions");
    }
}

/// Drops the publications whose names begin with that of the slot.
async fn drop_publications(client: &Session, slot: &str) -> Result<()> {
    let find = "select pg_catalog.array_agg(pubname::text order by pubname)
        from pg_catalog.pg_publication where pg_catalog.starts_with(pubname::text, $1 || '_')";
    let name: &[&(dyn ToSql + Sync)] = &[&slot];
    let found = fetch::<Option<Vec<String>>>(client, find, name).await?;
    for publication in found.flatten().unwrap_or_default() {
        let name = quote_identifier(&publication);
        let drop = format!("set lock_timeout = '10s'; drop publication if exists {name}");
        execute(client, &drop).await?;
    }
    Ok(())
}

/// Waits until the sessions of a subscription have ended, and terminates those that have not. A
/// running session could still create the objects that are about to be removed.
async fn end_sessions(client: &Session, record: &Record) -> Result<()> {
    // All names are qualified: the database's owner controls the search path.
    let theirs = "from pg_catalog.pg_stat_activity where usename = current_user
        and (application_name = $1 or pid in (select active_pid
            from pg_catalog.pg_replication_slots where slot_name = $1))";
    let alive = format!("select pg_catalog.count(*) {theirs}");
    let name: &[&(dyn ToSql + Sync)] = &[&record.slot];
    for _ in 0..GRACE_LOOKS {
        if fetch::<i64>(client, &alive, name).await? == Some(0) {
            return Ok(());
        }
        tokio::time::sleep(GRACE / GRACE_LOOKS).await;
    }
    // Waits up to 5 s for each session.
    let end = format!(
        "select coalesce(pg_catalog.bool_and(
            pg_catalog.pg_terminate_backend(pid, 5000)), true) {theirs}"
    );
    match fetch::<bool>(client, &end, name).await? {
        Some(true) => Ok(()),
        _ => Err(Error::internal("sessions of a subscription do not end")),
    }
}
