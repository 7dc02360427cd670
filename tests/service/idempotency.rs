//! Requests that are sent again with their `request_id`.

use std::time::Duration;

use futures::future::join_all;
use howdah::pb::{
    google::longrunning::Operation,
    v1::{
        ChangeStream, CreateChangeStreamRequest, CreateDatabaseRequest, CreateInstanceRequest,
        Database, DeleteChangeStreamRequest, DeleteDatabaseRequest, DeleteInstanceRequest,
        Instance, RestartInstanceRequest, StartInstanceRequest, StopInstanceRequest,
        UndeleteInstanceRequest,
    },
};
use tonic::{Code::InvalidArgument, Status};
use uuid::Uuid;

use super::rig::{Metadata, refused, serve, superuser};
use crate::support::howdah::{Howdah, create_database, create_instance, instance_name, succeeded};

/// A mutation as it was sent, to be sent again.
#[derive(Clone, Debug)]
enum Sent {
    CreateInstance(CreateInstanceRequest),
    DeleteInstance(DeleteInstanceRequest),
    UndeleteInstance(UndeleteInstanceRequest),
    StartInstance(StartInstanceRequest),
    StopInstance(StopInstanceRequest),
    RestartInstance(RestartInstanceRequest),
    CreateDatabase(CreateDatabaseRequest),
    DeleteDatabase(DeleteDatabaseRequest),
    CreateChangeStream(CreateChangeStreamRequest),
    DeleteChangeStream(DeleteChangeStreamRequest),
}

impl Sent {
    async fn send(&self, howdah: &Howdah) -> Result<Operation, Status> {
        let sent = self.clone();
        let mut instances = howdah.instances().await;
        let mut databases = howdah.databases().await;
        let mut streams = howdah.streams().await;
        let answer = match sent {
            Self::CreateInstance(request) => instances.create_instance(request).await,
            Self::DeleteInstance(request) => instances.delete_instance(request).await,
            Self::UndeleteInstance(request) => instances.undelete_instance(request).await,
            Self::StartInstance(request) => instances.start_instance(request).await,
            Self::StopInstance(request) => instances.stop_instance(request).await,
            Self::RestartInstance(request) => instances.restart_instance(request).await,
            Self::CreateDatabase(request) => databases.create_database(request).await,
            Self::DeleteDatabase(request) => databases.delete_database(request).await,
            Self::CreateChangeStream(request) => streams.create_change_stream(request).await,
            Self::DeleteChangeStream(request) => streams.delete_change_stream(request).await,
        };
        answer.map(tonic::Response::into_inner)
    }

    /// The same request id with other content.
    fn other(&self) -> Self {
        let etag = "other".to_owned();
        let mut other = self.clone();
        match &mut other {
            Self::CreateInstance(request) => request.instance_id.push('x'),
            Self::DeleteInstance(request) => request.etag = etag,
            Self::UndeleteInstance(request) => request.etag = etag,
            Self::StartInstance(request) => request.etag = etag,
            Self::StopInstance(request) => request.etag = etag,
            Self::RestartInstance(request) => request.etag = etag,
            Self::CreateDatabase(request) => request.database_id.push('x'),
            Self::DeleteDatabase(request) => request.force = !request.force,
            Self::CreateChangeStream(request) => request.change_stream_id.push('x'),
            Self::DeleteChangeStream(request) => request.force = !request.force,
        }
        other
    }
}

fn id() -> String {
    Uuid::new_v4().to_string()
}

/// Every mutation there is, in an order in which each has something to do.
fn mutations() -> Vec<Sent> {
    let ephemeral = Instance {
        ephemeral: true,
        ..Instance::default()
    };
    let name = instance_name("orders");
    macro_rules! change {
        ($kind:ident, $request:ident) => {
            Sent::$kind($request {
                name: name.clone(),
                request_id: id(),
                ..$request::default()
            })
        };
    }
    vec![
        Sent::CreateInstance(CreateInstanceRequest {
            request_id: id(),
            ..create_instance("orders", ephemeral)
        }),
        Sent::CreateDatabase(CreateDatabaseRequest {
            request_id: id(),
            ..create_database("orders", "shop")
        }),
        Sent::CreateChangeStream(CreateChangeStreamRequest {
            parent: name.clone(),
            change_stream_id: "audit".into(),
            change_stream: Some(ChangeStream {
                database: "shop".into(),
                tables: vec!["items".into()],
                ..ChangeStream::default()
            }),
            request_id: id(),
            ..CreateChangeStreamRequest::default()
        }),
        Sent::DeleteChangeStream(DeleteChangeStreamRequest {
            name: format!("{name}/changeStreams/audit"),
            request_id: id(),
            ..DeleteChangeStreamRequest::default()
        }),
        change!(RestartInstance, RestartInstanceRequest),
        Sent::DeleteDatabase(DeleteDatabaseRequest {
            name: format!("{name}/databases/shop"),
            request_id: id(),
            ..DeleteDatabaseRequest::default()
        }),
        change!(StopInstance, StopInstanceRequest),
        change!(StartInstance, StartInstanceRequest),
        change!(DeleteInstance, DeleteInstanceRequest),
        change!(UndeleteInstance, UndeleteInstanceRequest),
    ]
}

/// Each mutation that the services have is in the list above.
#[test]
fn no_mutation_is_left_out() {
    let pool = prost_reflect::DescriptorPool::decode(howdah::pb::DESCRIPTORS).unwrap();
    let mut methods = Vec::new();
    for service in pool.services() {
        for method in service.methods() {
            if method.output().full_name() == "google.longrunning.Operation"
                && service.full_name().starts_with("howdah.v1.")
            {
                methods.push(method.name().to_owned());
            }
        }
    }
    methods.sort();
    let mut listed: Vec<String> = mutations()
        .iter()
        .map(|sent| {
            let shown = format!("{sent:?}");
            shown.split_once('(').unwrap().0.to_owned()
        })
        .collect();
    listed.sort();
    assert_eq!(methods, listed);
}

async fn replays_lead_to(howdah: &Howdah, sent: &[(Sent, Operation)]) {
    for (sent, first) in sent {
        let again = sent.send(howdah).await.unwrap();
        assert_eq!(again.name, first.name, "{sent:?}");
        assert_eq!(again.result, first.result, "{sent:?}");
        let answer = sent.other().send(howdah).await.map(tonic::Response::new);
        let status = refused(answer, InvalidArgument, "REQUEST_ID_REUSED");
        assert!(!status.message().is_empty());
    }
}

#[tokio::test]
async fn replays_find_the_first_operation() {
    let mut howdah = serve().await;
    let mut done = Vec::new();
    for sent in mutations() {
        if let Sent::CreateChangeStream(_) = &sent {
            let admin = superuser(&howdah, "orders", "shop").await;
            let table = "create table items (id int primary key)";
            admin.batch_execute(table).await.unwrap();
        }
        let first = sent.send(&howdah).await.unwrap();
        // While it may be under way.
        let again = sent.send(&howdah).await.unwrap();
        assert_eq!(again.name, first.name);
        let first = howdah.wait(&first).await;
        assert!(
            matches!(
                first.result,
                Some(howdah::pb::google::longrunning::operation::Result::Response(_))
            ),
            "{first:?}"
        );
        done.push((sent, first));
    }
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    replays_lead_to(&howdah, &done).await;
    howdah.kill().await;
    howdah.start("").await;
    replays_lead_to(&howdah, &done).await;
    assert_eq!(metadata.content().await, before);
    assert_eq!(metadata.count("requests").await, 10);
}

/// The answer got lost because the process was killed; whether it was accepted is
/// found out by asking again.
#[tokio::test]
async fn a_replay_after_a_crash_is_done_once() {
    let mut howdah = serve().await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;
    for (done, moment) in [0, 3, 10, 30].into_iter().enumerate() {
        let sent = Sent::CreateDatabase(CreateDatabaseRequest {
            request_id: id(),
            ..create_database("orders", &format!("after-{moment}"))
        });
        let call = sent.send(&howdah);
        let answer = tokio::time::timeout(Duration::from_millis(moment), call).await;
        howdah.kill().await;
        howdah.start("").await;
        let operation = sent.send(&howdah).await.unwrap();
        if let Ok(Ok(first)) = answer {
            assert_eq!(first.name, operation.name);
        }
        let _: Database = succeeded(&howdah.wait(&operation).await);
        let creations = metadata
            .count("operations where kind = 'database.create'")
            .await;
        assert_eq!(creations, done as i64 + 1);
    }
}

/// Twenty at once: one is accepted, all are told the same.
#[tokio::test]
async fn duplicates_at_once_are_one() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;
    let operations = metadata.count("operations").await;
    let stop = StopInstanceRequest {
        name: instance_name("orders"),
        request_id: id(),
        ..StopInstanceRequest::default()
    };
    let create = CreateInstanceRequest {
        request_id: id(),
        ..create_instance(
            "other",
            Instance {
                ephemeral: true,
                ..Instance::default()
            },
        )
    };
    for sent in [Sent::StopInstance(stop), Sent::CreateInstance(create)] {
        let answers = join_all((0..20).map(|_| sent.send(&howdah))).await;
        let mut names: Vec<String> = answers.into_iter().map(|one| one.unwrap().name).collect();
        names.dedup();
        assert_eq!(names.len(), 1, "{names:?}");
        let first = howdah.operation(&names[0]).await;
        howdah.wait(&first).await;
    }
    assert_eq!(metadata.count("operations").await, operations + 2);
    assert_eq!(metadata.count("instances").await, 2);
}

/// What was refused leaves no trace: the same id may be used for the next try.
#[tokio::test]
async fn a_refused_request_can_be_sent_again() {
    let howdah = serve().await;
    let sent = Sent::CreateDatabase(CreateDatabaseRequest {
        request_id: id(),
        ..create_database("orders", "shop")
    });
    let answer = sent.send(&howdah).await.map(tonic::Response::new);
    refused(answer, tonic::Code::NotFound, "INSTANCE_NOT_FOUND");
    howdah.instance("orders").await;
    let operation = sent.send(&howdah).await.unwrap();
    let _: Database = succeeded(&howdah.wait(&operation).await);
}

/// The same id in two methods are two requests.
#[tokio::test]
async fn ids_are_scoped_to_their_method() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let request_id = id();
    let name = instance_name("orders");
    let stop = Sent::StopInstance(StopInstanceRequest {
        name: name.clone(),
        request_id: request_id.clone(),
        ..StopInstanceRequest::default()
    });
    let start = Sent::StartInstance(StartInstanceRequest {
        name,
        request_id,
        ..StartInstanceRequest::default()
    });
    let stopped = stop.send(&howdah).await.unwrap();
    howdah.wait(&stopped).await;
    let started = start.send(&howdah).await.unwrap();
    assert_ne!(stopped.name, started.name);
    howdah.wait(&started).await;
}
