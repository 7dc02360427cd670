//! Callers of all kinds, for as long as they are let: readers, mutations with the
//! operations that they begin, and those who ask for the health.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use howdah::pb::{
    google::longrunning::{
        Operation, WaitOperationRequest, operation, operations_client::OperationsClient,
    },
    v1::{
        CreateInstanceRequest, DeleteDatabaseRequest, DeleteInstanceRequest, GetInstanceRequest,
        Instance, ListDatabasesRequest, database_service_client::DatabaseServiceClient,
        instance_service_client::InstanceServiceClient,
    },
};
use tokio::task::JoinSet;
use tonic::{Request, Status, transport::Channel};
use uuid::Uuid;

use super::met::Met;
use crate::support::{
    health::Prober,
    howdah::{Howdah, create_database, create_instance, eventually, instance_name},
};

/// The instance that all of it is about.
pub(super) const INSTANCE: &str = "orders";

/// Deadline of those who give one.
const DEADLINE: Duration = Duration::from_secs(3);

/// Between two calls of one caller.
const PAUSE: Duration = Duration::from_millis(20);

/// Longest time from the first try of a mutation to the end of its operation; none is
/// waited for any longer.
const PATIENCE: Duration = Duration::from_secs(60);

const READERS: usize = 4;
const MUTATORS: usize = 3;

/// Callers at work.
pub(super) struct Load {
    pub(super) met: Arc<Met>,
    over: Arc<AtomicBool>,
    present: Arc<Mutex<BTreeSet<String>>>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Begins, and waits until calls are answered. `turn` tells its databases from those
    /// of another load.
    pub(super) async fn start(howdah: &Howdah, turn: usize) -> Self {
        let (channel, prober) = (howdah.channel().await, Prober::of(howdah).await);
        let mut load = Self {
            met: Arc::default(),
            over: Arc::default(),
            present: Arc::default(),
            tasks: JoinSet::new(),
        };
        for number in 0..READERS {
            let caller = load.caller(&channel, (number % 2 == 0).then_some(DEADLINE));
            load.tasks.spawn(caller.read());
        }
        for number in 0..MUTATORS {
            let caller = load.caller(&channel, (number % 2 == 0).then_some(DEADLINE));
            load.tasks.spawn(caller.mutate(format!("t{turn}m{number}")));
        }
        let caller = load.caller(&channel, None);
        load.tasks.spawn(caller.validate());
        let caller = load.caller(&channel, Some(DEADLINE));
        load.tasks
            .spawn(caller.make_instances(format!("spare{turn}")));
        load.tasks
            .spawn(probe(prober, Arc::clone(&load.met), Arc::clone(&load.over)));
        let met = Arc::clone(&load.met);
        eventually("calls are answered", async || met.answered() > 50).await;
        load
    }

    /// Lets each caller finish what it does. The answer: databases that are there now.
    pub(super) async fn stop(mut self) -> BTreeSet<String> {
        self.over.store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done.unwrap();
        }
        std::mem::take(&mut self.present.lock().unwrap())
    }

    fn caller(&self, channel: &Channel, deadline: Option<Duration>) -> Caller {
        Caller {
            met: Arc::clone(&self.met),
            over: Arc::clone(&self.over),
            present: Arc::clone(&self.present),
            channel: channel.clone(),
            deadline,
        }
    }
}

/// Asks for the health until it is over.
async fn probe(prober: Prober, met: Arc<Met>, over: Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        met.probed(prober.ask().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Who makes one call after the other.
pub(super) struct Caller {
    pub(super) met: Arc<Met>,
    over: Arc<AtomicBool>,
    present: Arc<Mutex<BTreeSet<String>>>,
    channel: Channel,
    deadline: Option<Duration>,
}

/// A mutation with its `request_id`, to be sent again until it is accepted.
#[derive(Clone, Debug)]
enum Mutation {
    CreateDatabase(String),
    DeleteDatabase(String),
    CreateInstance(String),
    PurgeInstance(String),
}

impl Mutation {
    fn verb(&self) -> &'static str {
        match self {
            Self::CreateDatabase(_) => "CreateDatabase",
            Self::DeleteDatabase(_) => "DeleteDatabase",
            Self::CreateInstance(_) => "CreateInstance",
            Self::PurgeInstance(_) => "DeleteInstance",
        }
    }
}

impl Caller {
    /// A caller of its own, whose calls are judged too.
    pub(super) fn single(channel: Channel, met: Arc<Met>) -> Self {
        Self {
            met,
            over: Arc::default(),
            present: Arc::default(),
            channel,
            deadline: None,
        }
    }

    /// Creates a database, whatever it takes.
    pub(super) async fn create_database(&self, id: &str) {
        self.change(Mutation::CreateDatabase(id.to_owned())).await;
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(deadline) = self.deadline {
            request.set_timeout(deadline);
        }
        request
    }

    async fn read(self) {
        while !self.is_over() {
            let mut instances = InstanceServiceClient::new(self.channel.clone());
            let request = self.request(GetInstanceRequest {
                name: instance_name(INSTANCE),
            });
            let call = instances.get_instance(request);
            let _ = self.met.call("GetInstance", self.deadline, call).await;
            let mut databases = DatabaseServiceClient::new(self.channel.clone());
            let request = self.request(ListDatabasesRequest {
                parent: instance_name(INSTANCE),
                ..ListDatabasesRequest::default()
            });
            let call = databases.list_databases(request);
            let _ = self.met.call("ListDatabases", self.deadline, call).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn validate(self) {
        while !self.is_over() {
            let mut instances = InstanceServiceClient::new(self.channel.clone());
            let request = self.request(CreateInstanceRequest {
                validate_only: true,
                ..create_instance("never", Instance::default())
            });
            let call = instances.create_instance(request);
            let _ = self.met.call("validate_only", self.deadline, call).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn mutate(self, prefix: String) {
        for number in 0.. {
            let id = format!("{prefix}n{number}");
            if !self.change(Mutation::CreateDatabase(id.clone())).await {
                return;
            }
            self.present.lock().unwrap().insert(id.clone());
            // Every third one stays.
            if number % 3 != 0 && !self.is_over() {
                if !self.change(Mutation::DeleteDatabase(id.clone())).await {
                    return;
                }
                self.present.lock().unwrap().remove(&id);
            }
            if self.is_over() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn make_instances(self, id: String) {
        while !self.is_over() {
            let made = self.change(Mutation::CreateInstance(id.clone())).await
                && self.change(Mutation::PurgeInstance(id.clone())).await;
            if !made {
                return;
            }
        }
    }

    /// Sends a mutation until it is accepted, and waits for its operation. False if that
    /// never ends, which is wrong.
    async fn change(&self, mutation: Mutation) -> bool {
        let changed = tokio::time::timeout(PATIENCE, self.accept_and_finish(&mutation)).await;
        if changed.is_err() {
            self.met
                .lose(format!("{mutation:?}: no end within {PATIENCE:?}"));
        }
        changed.is_ok()
    }

    async fn accept_and_finish(&self, mutation: &Mutation) {
        let request_id = Uuid::new_v4().to_string();
        let operation = loop {
            let call = self.send(mutation, &request_id);
            let what = mutation.verb();
            if let Ok(operation) = self.met.call(what, self.deadline, call).await {
                break operation;
            }
            tokio::time::sleep(PAUSE).await;
        };
        self.met.accept(&request_id, &operation.name);
        self.finish(operation, mutation).await;
    }

    async fn finish(&self, mut operation: Operation, mutation: &Mutation) {
        let limit = Duration::from_secs(2);
        while !operation.done {
            let request = WaitOperationRequest {
                name: operation.name.clone(),
                timeout: Some(limit.try_into().unwrap()),
            };
            let mut client = OperationsClient::new(self.channel.clone());
            let call = client.wait_operation(request);
            match self.met.call("WaitOperation", None, call).await {
                Ok(now) => operation = now,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        if !matches!(operation.result, Some(operation::Result::Response(_))) {
            self.met
                .wrong(format!("{mutation:?} ended with {:?}", operation.result));
        }
    }

    async fn send(
        &self,
        mutation: &Mutation,
        request_id: &str,
    ) -> Result<tonic::Response<Operation>, Status> {
        let mut instances = InstanceServiceClient::new(self.channel.clone());
        let mut databases = DatabaseServiceClient::new(self.channel.clone());
        let request_id = request_id.to_owned();
        match mutation {
            Mutation::CreateDatabase(id) => {
                let mut request = create_database(INSTANCE, id);
                request.request_id = request_id;
                databases.create_database(self.request(request)).await
            }
            Mutation::DeleteDatabase(id) => {
                let request = DeleteDatabaseRequest {
                    name: format!("{}/databases/{id}", instance_name(INSTANCE)),
                    request_id,
                    ..DeleteDatabaseRequest::default()
                };
                databases.delete_database(self.request(request)).await
            }
            Mutation::CreateInstance(id) => {
                let instance = Instance {
                    ephemeral: true,
                    ..Instance::default()
                };
                let request = CreateInstanceRequest {
                    request_id,
                    ..create_instance(id, instance)
                };
                instances.create_instance(self.request(request)).await
            }
            Mutation::PurgeInstance(id) => {
                let request = DeleteInstanceRequest {
                    name: instance_name(id),
                    request_id,
                    purge: true,
                    ..DeleteInstanceRequest::default()
                };
                instances.delete_instance(self.request(request)).await
            }
        }
    }
}
