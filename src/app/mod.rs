//! Use cases, one file per resource, and the step engine with one file per long
//! operation.

mod admin;
mod audit;
mod background;
mod databases;
mod engines;
mod housekeeping;
mod instance_changes;
mod instances;
mod keys;
mod longrunning;
mod mutation;
pub mod operations;
mod orphans;
mod pages;
mod steady;
mod subscriptions;
mod supervision;
mod withdrawal;

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, broadcast};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use audit::Origin;
pub use databases::{CreateDatabase, DeleteDatabase};
pub use instance_changes::{ChangeInstance, DeleteInstance};
pub use instances::CreateInstance;
pub use longrunning::{ListOperations, shutting_down};
pub use mutation::{HELD, Held, Mutation};
pub use pages::{List, Page};
pub use subscriptions::{Changes, Place};

use crate::{
    domain::{Result, clock::Clock, operation::Encode, provider::Providers, random::Random},
    store::{Store, sealing::Keyring},
};

/// How the use cases and the step engine behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Ports for local servers.
    pub ports: std::ops::RangeInclusive<u16>,
    /// How long a deleted instance is kept.
    pub purge_delay: Duration,
    /// How many operations this process works on at once.
    pub workers: usize,
    /// For how long a worker holds an operation without a sign of life.
    pub lease: Duration,
    /// How often due operations are looked for when nothing wakes the workers.
    pub scan_interval: Duration,
    /// For how long done operations are kept.
    pub retention: Duration,
    /// For how long a replayed request finds its operation.
    pub idempotency_retention: Duration,
    /// For how long it is kept on record who did what.
    pub audit_retention: Duration,
}

/// What the use cases work with.
pub struct Parts {
    /// The metadata.
    pub store: Store,
    /// Where servers come from.
    pub providers: Providers,
    /// Keys for stored secrets.
    pub keyring: Keyring,
    /// Source of identities and passwords.
    pub random: Arc<dyn Random>,
    /// Encodes what operations answer.
    pub encode: Encode,
    /// Source of the present time.
    pub clock: Arc<dyn Clock>,
    /// This host, whose local servers are in reach.
    pub host: Uuid,
    /// Its name, for people.
    pub host_name: String,
    /// Identity of this process's workers: the same after a restart in the same data
    /// directory.
    pub worker: Uuid,
    /// How it all behaves.
    pub settings: Settings,
}

/// All use cases. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

/// The insides of [`App`]; nothing of them is public.
pub struct Inner {
    pub(crate) parts: Parts,
    /// Mutations and workers, which shutdown waits for.
    pub(crate) tasks: TaskTracker,
    /// Ends the workers.
    pub(crate) stopping: CancellationToken,
    /// Operations that this process works on.
    pub(crate) held: operations::Held,
    /// Places beside the workers, of operations that take long.
    pub(crate) long_operations: Arc<Semaphore>,
    /// What was seen of the metadata database's clock.
    pub(crate) steadiness: steady::Steadiness,
    /// When this process looks for operations to work on.
    pub(crate) agenda: operations::Agenda,
    /// Ids of operations that have changed.
    pub(crate) changed: broadcast::Sender<Uuid>,
    /// Whether the secret keys of this process are in use.
    pub(crate) keys_health: keys::KeysHealth,
    /// Servers that a watcher looks after.
    pub(crate) watched: supervision::Watched,
    /// Ends streams and waiting calls.
    pub(crate) draining: CancellationToken,
    /// Subscriptions that are open here.
    pub(crate) subscribed: subscriptions::Open,
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    /// The use cases over these parts. Nothing runs before [`App::start`].
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let (changed, _) = broadcast::channel(1024);
        let beside = parts
            .settings
            .workers
            .saturating_mul(operations::LONG_FOR_EACH);
        Self(Arc::new(Inner {
            parts,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            held: operations::Held::default(),
            long_operations: Arc::new(Semaphore::new(beside)),
            steadiness: steady::Steadiness::default(),
            agenda: operations::Agenda::default(),
            changed,
            keys_health: keys::KeysHealth::default(),
            watched: supervision::Watched::default(),
            draining: CancellationToken::new(),
            subscribed: subscriptions::Open::default(),
        }))
    }

    /// The metadata.
    #[must_use]
    pub fn store(&self) -> Store {
        self.parts.store.clone()
    }

    /// This host, whose local servers are in reach.
    #[must_use]
    pub fn host(&self) -> Uuid {
        self.parts.host
    }

    /// Takes back what a dead process with the same data directory held: operations
    /// are due at once, subscriptions are swept.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn take_over(&self) -> Result<()> {
        self.parts
            .store
            .see_host(
                self.parts.host,
                &self.parts.host_name,
                &self.parts.settings.ports,
            )
            .await?;
        self.parts.store.release_worker(self.parts.worker).await?;
        self.parts
            .store
            .expire_subscriptions(self.parts.worker)
            .await
    }

    /// Starts the workers, the supervisor of local servers and the housekeeping.
    /// Each is started again when it panics. Returns at once.
    pub fn start(&self) {
        self.supervise("task.dispatch", operations::dispatch);
        self.supervise("task.listen", longrunning::listen);
        self.supervise("task.supervision", supervision::run);
        self.supervise("task.life", housekeeping::show_life);
        self.supervise("task.housekeeping", housekeeping::run);
        self.supervise("task.orphans", orphans::run);
        self.supervise("task.objects", orphans::objects::run);
        self.supervise("task.engines", housekeeping::look_at_engines);
        self.supervise("task.keys", keys::run);
        self.supervise("task.subscriptions", subscriptions::run);
    }

    /// Ends streams and waiting calls with SHUTTING_DOWN. Returns at once.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Ends when streams and waiting calls are to end.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Ends everything that runs, within `limit`. Operations under way are given
    /// back; another process, or the next start, goes on with them.
    pub async fn stop(&self, limit: Duration) {
        self.draining.cancel();
        self.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("tasks were still running at the end of the drain");
        }
    }
}
