//! The use cases, with one file per resource, and the step engine, with one file per long
//! operation.

mod admin;
mod audit;
mod census;
mod change_streams;
mod conditions;
mod databases;
mod engines;
mod hosts;
mod housekeeping;
mod instance_changes;
mod instances;
mod keys;
mod logs;
mod longrunning;
mod mutation;
mod notifier;
pub mod operations;
mod orphans;
mod pages;
mod ports;
mod steady;
mod subscriptions;
mod supervision;
mod tasks;
mod withdrawal;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{
    admin::Servers,
    census::Counting,
    change_streams::{look_after::LookAfter, subscribe::Reading},
    conditions::Conditions,
    hosts::{Answers, Hosts},
    housekeeping::Housekeeping,
    mutation::Mutations,
    notifier::Notifier,
    operations::StepEngine,
    orphans::{Orphans, objects::Objects},
    ports::Ports,
    steady::MetadataClock,
    supervision::Supervisor,
    tasks::Tasks,
};
pub use self::{
    audit::{Audit, Origin},
    change_streams::{
        ChangeStreams, CreateChangeStream, DeleteChangeStream, acknowledge::Acknowledgements,
        subscribe::SubscribeChangeStream,
    },
    databases::{CreateDatabase, Databases, DeleteDatabase},
    engines::Engines,
    instance_changes::{ChangeInstance, DeleteInstance},
    instances::{CreateInstance, Instances},
    keys::Keys,
    logs::Logs,
    longrunning::{ListOperations, Operations},
    mutation::Mutation,
    pages::{List, Page},
    subscriptions::{Changes, Permit, Subscriptions},
    tasks::{HELD, Held, shutting_down},
};
use crate::{
    domain::{
        Result, clock::Clock, name::InstanceName, operation::Encode, provider::Providers,
        random::Random,
    },
    store::{Store, processes::Process, sealing::Keyring},
};

/// Limits and times of the use cases and of the step engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long the data of a deleted instance is kept.
    pub purge_delay: Duration,
    /// How many operations this process executes at once, apart from long ones.
    pub workers: usize,
    /// How long a claim is valid after its last renewal.
    pub lease: Duration,
    /// How often the metadata is asked for due operations when nothing wakes the dispatcher.
    pub scan_interval: Duration,
    /// How long operations are kept after their end.
    pub retention: Duration,
    /// How long a repeated request finds its first operation.
    pub idempotency_retention: Duration,
    /// How long audit records are kept.
    pub audit_retention: Duration,
}

/// The components that the use cases use.
pub struct Parts {
    /// The metadata database.
    pub store: Store,
    /// The providers of servers.
    pub providers: Providers,
    /// Keys for sealed values.
    pub keyring: Keyring,
    /// Source of unique ids and passwords.
    pub random: Arc<dyn Random>,
    /// Encodes the responses of operations.
    pub encode: Encode,
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// This process and its host.
    pub process: Process,
    /// Limits and times.
    pub settings: Settings,
}

/// All use cases, and the background tasks of the process. Each resource has a struct with
/// exactly the components that it uses; this struct only connects them.
pub struct App {
    /// Instances.
    pub instances: Instances,
    /// Databases and how to connect to them.
    pub databases: Databases,
    /// Durable change streams.
    pub change_streams: ChangeStreams,
    /// Long-running operations.
    pub operations: Operations,
    /// Subscriptions to changes.
    pub subscriptions: Subscriptions,
    /// Logs of instances' servers.
    pub logs: Logs,
    /// The audit.
    pub audit: Audit,
    /// PostgreSQL installations.
    pub engines: Engines,
    /// Keys of stored secrets.
    pub keys: Keys,
    store: Store,
    process: Arc<Process>,
    tasks: Tasks,
    notifier: Notifier,
    step_engine: StepEngine,
    supervisor: Supervisor,
    housekeeping: Housekeeping,
    orphans: Orphans,
    objects: Objects,
    counting: Counting,
    acknowledgements: Acknowledgements,
    look_after_streams: LookAfter,
}

impl App {
    /// Connects the parts. Nothing runs before [`App::start`].
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            store,
            providers,
            keyring,
            random,
            encode,
            clock,
            process,
            settings,
        } = parts;
        let (host, worker) = (process.host.id, process.worker);
        let process = Arc::new(process);
        let settings = Arc::new(settings);
        let tasks = Tasks::default();
        let hosts = Hosts::new(store.clone(), host);
        let engines = Engines::new(providers.clone());
        let conditions = Conditions::new(store.clone(), Arc::clone(&clock));
        let metadata_clock = MetadataClock::new(store.clone());
        let notifier = Notifier::new(store.clone(), tasks.clone());
        let answers = Answers::new(encode, hosts.clone());
        let ports = Ports::new(store.clone(), Arc::clone(&random), host);
        let servers = Servers::new(
            store.clone(),
            providers.clone(),
            keyring.clone(),
            hosts.clone(),
        );
        let mutations = Mutations {
            store: store.clone(),
            random: Arc::clone(&random),
            answers: answers.clone(),
            notifier: notifier.clone(),
            tasks: tasks.clone(),
        };
        let supervisor = Supervisor {
            store: store.clone(),
            clock: Arc::clone(&clock),
            hosts: hosts.clone(),
            servers: servers.clone(),
            conditions: conditions.clone(),
            mutations: mutations.clone(),
            tasks: tasks.clone(),
            watched: Arc::default(),
            terms: Arc::default(),
            worker,
            lease: settings.lease,
        };
        let keys = Keys {
            store: store.clone(),
            keyring: keyring.clone(),
            metadata_clock: metadata_clock.clone(),
            tasks: tasks.clone(),
            health: Arc::default(),
        };
        let acknowledgements = Acknowledgements::new(store.clone(), tasks.clone());
        let look_after_streams = LookAfter {
            store: store.clone(),
            clock: Arc::clone(&clock),
            host,
            servers: servers.clone(),
            supervisor: supervisor.clone(),
            tasks: tasks.clone(),
            acknowledgements: acknowledgements.clone(),
        };
        let open = Arc::<subscriptions::Open>::default();
        let beside = settings.workers.saturating_mul(operations::LONG_FOR_EACH);
        Self {
            instances: Instances {
                store: store.clone(),
                providers: providers.clone(),
                keyring: keyring.clone(),
                random: Arc::clone(&random),
                clock: Arc::clone(&clock),
                metadata_clock: metadata_clock.clone(),
                hosts: hosts.clone(),
                engines: engines.clone(),
                ports: ports.clone(),
                conditions: conditions.clone(),
                mutations: mutations.clone(),
                purge_delay: settings.purge_delay,
            },
            databases: Databases {
                store: store.clone(),
                keyring: keyring.clone(),
                random: Arc::clone(&random),
                clock: Arc::clone(&clock),
                hosts: hosts.clone(),
                mutations: mutations.clone(),
            },
            change_streams: ChangeStreams {
                store: store.clone(),
                random: Arc::clone(&random),
                hosts: hosts.clone(),
                servers: servers.clone(),
                mutations: mutations.clone(),
                acknowledgements: acknowledgements.clone(),
                reading: Reading {
                    worker,
                    open: Arc::clone(&open),
                    tasks: tasks.clone(),
                },
            },
            operations: Operations {
                store: store.clone(),
                random: Arc::clone(&random),
                clock: Arc::clone(&clock),
                hosts: hosts.clone(),
                notifier: notifier.clone(),
                tasks: tasks.clone(),
            },
            subscriptions: Subscriptions {
                store: store.clone(),
                random: Arc::clone(&random),
                servers: servers.clone(),
                tasks: tasks.clone(),
                host,
                worker,
                open,
            },
            logs: Logs {
                store: store.clone(),
                clock: Arc::clone(&clock),
                servers: servers.clone(),
            },
            audit: Audit {
                store: store.clone(),
            },
            housekeeping: Housekeeping {
                store: store.clone(),
                providers: providers.clone(),
                clock: Arc::clone(&clock),
                metadata_clock,
                process: Arc::clone(&process),
                engines: engines.clone(),
                keys: keys.clone(),
                conditions: conditions.clone(),
                mutations,
                tasks: tasks.clone(),
                settings: Arc::clone(&settings),
            },
            orphans: Orphans {
                store: store.clone(),
                providers,
                host,
                tasks: tasks.clone(),
            },
            objects: Objects {
                store: store.clone(),
                clock: Arc::clone(&clock),
                host,
                servers: servers.clone(),
                supervisor: supervisor.clone(),
                conditions,
                tasks: tasks.clone(),
            },
            counting: Counting {
                store: store.clone(),
                tasks: tasks.clone(),
            },
            step_engine: StepEngine {
                store: store.clone(),
                keyring,
                random,
                clock,
                worker,
                hosts,
                servers,
                ports,
                supervisor: supervisor.clone(),
                answers,
                notifier: notifier.clone(),
                tasks: tasks.clone(),
                settings,
                held: Arc::default(),
                long_operations: Arc::new(Semaphore::new(beside)),
            },
            acknowledgements,
            look_after_streams,
            engines,
            keys,
            store,
            process,
            tasks,
            notifier,
            supervisor,
        }
    }

    /// What no record knows on the active server of an instance, each as `kind/name`.
    ///
    /// # Errors
    /// INSTANCE_NOT_FOUND, HOST_ELSEWHERE, HOST_UNAVAILABLE, SERVER_UNAVAILABLE.
    pub async fn list_unknown_objects(&self, name: &InstanceName) -> Result<Vec<String>> {
        self.objects.list_unknown(name).await
    }

    /// Drops these of them, or all, and answers what was dropped.
    ///
    /// # Errors
    /// ORPHAN_NOT_FOUND; those of [`App::list_unknown_objects`], and why PostgreSQL refuses.
    pub async fn drop_unknown_objects(
        &self,
        name: &InstanceName,
        only: Option<&BTreeSet<String>>,
    ) -> Result<Vec<String>> {
        self.objects.drop_unknown(name, only).await
    }

    /// The metadata database.
    #[must_use]
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Unique id of this process's workers.
    #[must_use]
    pub fn worker(&self) -> Uuid {
        self.process.worker
    }

    /// Takes over from a dead process with the same data directory. Its operations become due at
    /// once and its leases end, so that its subscriptions are removed and its servers
    /// supervised.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn take_over(&self) -> Result<()> {
        self.store.see_process(&self.process).await?;
        self.store.release_worker(self.process.worker).await?;
        self.store.expire_leases(self.process.worker).await
    }

    /// Starts the dispatcher, the supervisor and the other background tasks. A task that panics
    /// is started again. Returns at once.
    pub fn start(&self) {
        let (tasks, house) = (&self.tasks, &self.housekeeping);
        tasks.keep_running("task.dispatch", &self.step_engine, StepEngine::dispatch);
        tasks.keep_running("task.listen", &self.notifier, Notifier::listen);
        tasks.keep_running("task.supervision", &self.supervisor, Supervisor::run);
        tasks.keep_running("task.life", house, Housekeeping::show_life);
        tasks.keep_running("task.housekeeping", house, Housekeeping::run);
        tasks.keep_running("task.engines", house, Housekeeping::look_at_engines);
        tasks.keep_running("task.orphans", &self.orphans, Orphans::run);
        tasks.keep_running("task.objects", &self.objects, Objects::run);
        tasks.keep_running("task.counting", &self.counting, Counting::run);
        let (streams, acknowledged) = (&self.look_after_streams, &self.acknowledgements);
        tasks.keep_running("task.change_streams", streams, LookAfter::run);
        tasks.keep_running("task.acknowledgements", acknowledged, Acknowledgements::run);
        tasks.keep_running("task.keys", &self.keys, Keys::run);
        tasks.keep_running(
            "task.subscriptions",
            &self.subscriptions,
            Subscriptions::run,
        );
    }

    /// Ends streams and waiting calls with SHUTTING_DOWN. Returns at once.
    pub fn drain(&self) {
        self.tasks.drain();
    }

    /// Cancelled when streams and waiting calls shall end.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.tasks.draining()
    }

    /// Ends everything within `limit`. Running operations are given back, and another process or
    /// the next start continues them.
    pub async fn stop(&self, limit: Duration) {
        self.tasks.stop(limit).await;
    }
}
