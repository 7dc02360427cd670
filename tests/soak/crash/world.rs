//! A Howdah that is crashed and started again, and what is done to it.

use std::{fs, io::Write, os::unix::process::ExitStatusExt, path::PathBuf};

use howdah::{
    pb::{
        google::longrunning::Operation,
        v1::{
            ChangeStream, Connection, CreateChangeStreamRequest, CreateInstanceRequest,
            DeleteChangeStreamRequest, DeleteDatabaseRequest, DeleteInstanceRequest,
            GetConnectionRequest, GetInstanceRequest, Instance, RestartInstanceRequest,
            StartInstanceRequest, StopInstanceRequest, UndeleteInstanceRequest,
            change_stream_service_client::ChangeStreamServiceClient,
            database_service_client::DatabaseServiceClient,
            instance_service_client::InstanceServiceClient,
        },
    },
    pg::{self, Host, Login, Target, Tls},
    providers::{local, simulated},
};
use tonic::{Code, Status, transport::Channel};
use uuid::Uuid;

use super::{scenario::Act, simulated::Simulated};
use crate::support::{
    howdah::{
        Howdah, LIMIT, Options, create_database, create_instance, eventually, instance_name,
        signal, succeeded,
    },
    postgres::server,
};

/// A Howdah with its metadata on the run's shared server, whose servers are all of one
/// provider.
pub struct World {
    pub howdah: Howdah,
    /// A connection to the metadata.
    pub metadata: pg::Client,
    /// Where its servers are, if they are simulated.
    pub simulated: Option<Simulated>,
    /// A host that is gone.
    other: Option<Howdah>,
    next: u32,
}

/// An instance of its own for one row, with what is known of it.
pub struct Subject {
    pub id: String,
    pub keeper: Option<Connection>,
    pub shop: Option<Connection>,
}

impl World {
    /// Whose servers are local.
    pub async fn new() -> Self {
        Self::with(Options::external().await, None).await
    }

    /// Whose servers are of that provider.
    pub async fn of(provider: &str) -> Self {
        match provider {
            local::NAME => Self::new().await,
            simulated::NAME => {
                let simulated = Simulated::new().await;
                Self::with(simulated.options().await, Some(simulated)).await
            }
            other => panic!("there is no world of {other}"),
        }
    }

    /// Which its servers are of.
    pub fn provider(&self) -> &'static str {
        match &self.simulated {
            None => local::NAME,
            Some(_) => simulated::NAME,
        }
    }

    async fn with(options: Options, simulated: Option<Simulated>) -> Self {
        let metadata = metadata(&options).await;
        let howdah = Howdah::serve(options).await;
        Self {
            howdah,
            metadata,
            simulated,
            other: None,
            next: 0,
        }
    }

    pub fn subject(&mut self) -> Subject {
        self.next += 1;
        Subject {
            id: format!("i{}", self.next),
            keeper: None,
            shop: None,
        }
    }

    /// Does it and waits until it is done.
    pub async fn prepare(&mut self, subject: &mut Subject, act: Act) {
        match act {
            Act::EditSettings => return self.edit_settings(subject).await,
            Act::CreateElsewhere => return self.create_elsewhere(subject).await,
            _ => {}
        }
        let accepted = self.ask(subject, act, &request_id()).await.unwrap();
        let done = self.howdah.wait(&accepted).await;
        assert!(is_success(&done), "{act:?}: {done:?}");
        match act {
            Act::CreateKeeper => subject.keeper = Some(self.fill(subject, "keeper").await),
            Act::CreateShop => subject.shop = Some(self.fill(subject, "shop").await),
            _ => {}
        }
    }

    /// Connects when it is used: the process may have been killed.
    fn channel(&self) -> Channel {
        let endpoint = format!("http://{}", self.howdah.endpoint());
        Channel::from_shared(endpoint).unwrap().connect_lazy()
    }

    /// Asks for it; with the same id again, for the same operation.
    pub async fn ask(
        &self,
        subject: &Subject,
        act: Act,
        request_id: &str,
    ) -> Result<Operation, Status> {
        let mut instances = InstanceServiceClient::new(self.channel());
        let name = instance_name(&subject.id);
        let request_id = request_id.to_owned();
        let answer = match act {
            Act::Create { ephemeral } => {
                let instance = Instance {
                    ephemeral,
                    ..Instance::default()
                };
                let request = CreateInstanceRequest {
                    request_id,
                    ..create_instance(&subject.id, instance)
                };
                instances.create_instance(request).await
            }
            Act::Start => {
                let request = StartInstanceRequest {
                    name,
                    request_id,
                    ..StartInstanceRequest::default()
                };
                instances.start_instance(request).await
            }
            Act::Stop => {
                let request = StopInstanceRequest {
                    name,
                    request_id,
                    ..StopInstanceRequest::default()
                };
                instances.stop_instance(request).await
            }
            Act::Restart => {
                let request = RestartInstanceRequest {
                    name,
                    request_id,
                    ..RestartInstanceRequest::default()
                };
                instances.restart_instance(request).await
            }
            Act::Undelete => {
                let request = UndeleteInstanceRequest {
                    name,
                    request_id,
                    ..UndeleteInstanceRequest::default()
                };
                instances.undelete_instance(request).await
            }
            Act::Delete | Act::Purge => {
                let request = DeleteInstanceRequest {
                    name,
                    request_id,
                    force: true,
                    purge: act == Act::Purge,
                    ..DeleteInstanceRequest::default()
                };
                instances.delete_instance(request).await
            }
            Act::CreateStream | Act::DeleteStream => {
                return self.ask_for_stream(&name, act, request_id).await;
            }
            other => return self.ask_for_database(&name, other, request_id).await,
        };
        answer.map(tonic::Response::into_inner)
    }

    async fn ask_for_database(
        &self,
        instance: &str,
        act: Act,
        request_id: String,
    ) -> Result<Operation, Status> {
        let mut databases = DatabaseServiceClient::new(self.channel());
        let id = instance.rsplit('/').next().unwrap();
        let create = |database| {
            let mut request = create_database(id, database);
            request.request_id = request_id.clone();
            request
        };
        let answer = match act {
            Act::CreateKeeper => databases.create_database(create("keeper")).await,
            Act::CreateShop => databases.create_database(create("shop")).await,
            Act::DeleteShop => {
                let request = DeleteDatabaseRequest {
                    name: format!("{instance}/databases/shop"),
                    request_id,
                    ..DeleteDatabaseRequest::default()
                };
                databases.delete_database(request).await
            }
            other => panic!("nothing to ask for: {other:?}"),
        };
        answer.map(tonic::Response::into_inner)
    }

    async fn ask_for_stream(
        &self,
        instance: &str,
        act: Act,
        request_id: String,
    ) -> Result<Operation, Status> {
        let mut streams = ChangeStreamServiceClient::new(self.channel());
        let answer = match act {
            Act::CreateStream => {
                let stream = ChangeStream {
                    database: "keeper".into(),
                    tables: vec!["kept".into()],
                    ..ChangeStream::default()
                };
                let request = CreateChangeStreamRequest {
                    parent: instance.to_owned(),
                    change_stream_id: "audit".into(),
                    change_stream: Some(stream),
                    request_id,
                    ..CreateChangeStreamRequest::default()
                };
                streams.create_change_stream(request).await
            }
            _ => {
                let request = DeleteChangeStreamRequest {
                    name: format!("{instance}/changeStreams/audit"),
                    request_id,
                    ..DeleteChangeStreamRequest::default()
                };
                streams.delete_change_stream(request).await
            }
        };
        answer.map(tonic::Response::into_inner)
    }

    /// Puts a row into a new database, to be found again.
    async fn fill(&self, subject: &Subject, database: &str) -> Connection {
        let connection = self.connection(subject, database).await.unwrap();
        let client = connect(&connection).await;
        // An ephemeral server forgets its last moments when it is killed.
        for sql in [
            "set synchronous_commit = on",
            "create table kept (n integer)",
            "insert into kept values (1)",
        ] {
            client.batch_execute(sql).await.unwrap();
        }
        connection
    }

    pub async fn connection(
        &self,
        subject: &Subject,
        database: &str,
    ) -> Result<Connection, Status> {
        let name = format!("{}/databases/{database}", instance_name(&subject.id));
        let request = GetConnectionRequest { name };
        let answer = self.howdah.databases().await.get_connection(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// The instance as it is now, if there is one.
    pub async fn instance(&self, subject: &Subject) -> Option<Instance> {
        let request = GetInstanceRequest {
            name: instance_name(&subject.id),
        };
        match self.howdah.instances().await.get_instance(request).await {
            Ok(found) => Some(found.into_inner()),
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => panic!("{status}"),
        }
    }

    async fn edit_settings(&self, subject: &Subject) {
        let instance = self.instance(subject).await.unwrap();
        let home = self.local("servers").join(&instance.servers[0].uid);
        let file = home.join("data/howdah.conf");
        let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(b"# edited by hand\n").unwrap();
    }

    async fn create_elsewhere(&mut self, subject: &Subject) {
        let options = Options {
            database_url: self.howdah.options.database_url.clone(),
            environment: Vec::new(),
        };
        let mut other = Howdah::serve(options).await;
        let created = other.instance(&subject.id).await;
        other.kill().await;
        let host = Uuid::parse_str(&created.servers[0].host).unwrap();
        let sql = "update processes set seen_time = now() - interval '1 hour' where host = $1::text::uuid";
        let aged = self.metadata.execute(sql, &[&host.to_string()]).await;
        assert_eq!(aged.unwrap(), 1);
        self.other = Some(other);
    }

    /// How many servers run.
    pub fn running(&self) -> usize {
        match &self.simulated {
            None => self.howdah.servers().len(),
            Some(simulated) => simulated.running(),
        }
    }

    /// Kills the instance's server.
    pub fn kill_server(&self) {
        if let Some(simulated) = &self.simulated {
            simulated.kill();
        }
        for pid in self.howdah.servers() {
            signal(pid, "KILL");
        }
    }

    /// Waits until the process has died of the armed point.
    pub async fn died(&mut self) {
        let status = self.howdah.ended().await;
        assert_eq!(status.signal(), Some(9), "it ended with {status}");
    }

    /// Takes the templates away, so that the next ephemeral instance makes one.
    pub fn forget_templates(&self) {
        let templates = self.local("templates");
        for entry in fs::read_dir(templates).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    }

    /// The operation of that kind on the newest subject, by its target's name.
    pub async fn find_operation(&self, kind: &str, target: &str) -> Operation {
        let name = "select 'projects/default/operations/' || id from operations
             where kind = $1 and target = $2";
        let look = async || {
            let found = self.metadata.query_opt(name, &[&kind, &target]).await;
            found.unwrap()
        };
        eventually("the operation is there", async || look().await.is_some()).await;
        let found = look().await;
        let name: String = found.unwrap().get(0);
        self.howdah.operation(&name).await
    }

    /// Lets the row's instance go, whatever became of it.
    pub async fn clean_up(&mut self, subject: &Subject) {
        self.other = None;
        if self.instance(subject).await.is_some() {
            let purge = self.ask(subject, Act::Purge, &request_id()).await.unwrap();
            let done = self.howdah.wait(&purge).await;
            succeeded::<()>(&done);
        }
        if let Some(simulated) = &self.simulated {
            simulated.clean_up().await;
        }
    }

    pub fn local(&self, name: &str) -> PathBuf {
        self.howdah.data_dir().join("local").join(name)
    }
}

pub fn is_success(operation: &Operation) -> bool {
    use howdah::pb::google::longrunning::operation::Result;
    operation.done && matches!(operation.result, Some(Result::Response(_)))
}

pub fn request_id() -> String {
    Uuid::new_v4().to_string()
}

/// A connection to the metadata that these options name.
pub async fn metadata(options: &Options) -> pg::Client {
    let url = options.database_url.as_deref().unwrap();
    server(15).client(url.rsplit('/').next().unwrap()).await
}

/// Connects as `GetConnection` says.
pub async fn connect(connection: &Connection) -> pg::Client {
    connect_to(connection, &connection.database).await.unwrap()
}

/// Connects with that login to another database.
pub async fn connect_to(connection: &Connection, database: &str) -> Result<pg::Client, pg::Error> {
    let target = Target {
        host: Host::Tcp(connection.host.clone()),
        port: u16::try_from(connection.port).unwrap(),
        tls: Tls::Disable,
    };
    let login = Login {
        user: connection.user.clone(),
        password: Some(connection.password.clone().into()),
        database: database.to_owned(),
    };
    pg::client::connect(&target, &login, LIMIT).await
}
