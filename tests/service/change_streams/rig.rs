//! An instance of each of two versions, and what a test does with its streams.

use howdah::{
    pb::{
        google::longrunning::{CancelOperationRequest, Operation},
        v1::{
            ChangeStream, CreateChangeStreamRequest, DeleteChangeStreamRequest,
            GetChangeStreamRequest, OperationMetadata,
        },
    },
    pg::Client,
};
use prost::Message as _;
use tokio::sync::OnceCell;
use tonic::{Code, Status};

use crate::{
    streams::rig::{Rig, versioned_instance},
    support::{
        howdah::{Howdah, Options, eventually, instance_name, succeeded},
        postgres::installation,
    },
};

/// The major versions that all of it is tried on.
pub const MAJORS: [&str; 2] = ["15", "18"];

/// Options of a program that has an installation of each.
pub async fn options() -> Options {
    let directories = [15, 18].map(|major| {
        let bin = installation(major).expect("tools/install.sh postgres installs it");
        bin.display().to_string()
    });
    let options = Options::external().await;
    options.with("HOWDAH_LOCAL_ENGINE_DIRECTORIES", directories.join(","))
}

/// The program that tests share which neither stop it nor its servers, with an instance
/// `v{major}` of each version.
pub async fn shared() -> &'static Howdah {
    static SHARED: OnceCell<Howdah> = OnceCell::const_new();
    let start = || async {
        let howdah = Howdah::serve(options().await).await;
        for major in MAJORS {
            versioned_instance(&howdah, &format!("v{major}"), major).await;
        }
        howdah
    };
    SHARED.get_or_init(start).await
}

/// A database with a table `items` on the shared instance of that version.
pub async fn database(major: &str) -> Rig<'static> {
    let rig = Rig::on(shared().await, &format!("v{major}"), "").await;
    rig.run("create table items (id int primary key, name text)")
        .await;
    rig
}

/// A stream of the table `items`.
pub fn items(rig: &Rig<'_>) -> ChangeStream {
    ChangeStream {
        database: rig.database.clone(),
        tables: vec!["items".into()],
        ..ChangeStream::default()
    }
}

/// The name of the rig's stream of that id. Ids are unique on the instance.
pub fn name(rig: &Rig<'_>, id: &str) -> String {
    format!(
        "{}/changeStreams/{}",
        instance_name(&rig.instance),
        own(rig, id)
    )
}

/// The id of a stream of the rig.
pub fn own(rig: &Rig<'_>, id: &str) -> String {
    format!("{id}-{}", rig.database.replace('_', "-"))
}

pub fn request(rig: &Rig<'_>, id: &str, stream: ChangeStream) -> CreateChangeStreamRequest {
    CreateChangeStreamRequest {
        parent: instance_name(&rig.instance),
        change_stream_id: own(rig, id),
        change_stream: Some(stream),
        ..CreateChangeStreamRequest::default()
    }
}

/// Asks for a stream.
pub async fn ask(rig: &Rig<'_>, id: &str, stream: ChangeStream) -> Result<Operation, Status> {
    let mut client = rig.howdah.streams().await;
    let answer = client.create_change_stream(request(rig, id, stream)).await;
    answer.map(tonic::Response::into_inner)
}

/// The operation that has made a stream, or not.
pub async fn make(rig: &Rig<'_>, id: &str, stream: ChangeStream) -> Operation {
    let operation = ask(rig, id, stream).await.unwrap();
    rig.howdah.wait(&operation).await
}

/// A stream that is READY.
pub async fn made(rig: &Rig<'_>, id: &str, stream: ChangeStream) -> ChangeStream {
    succeeded(&make(rig, id, stream).await)
}

pub async fn get(howdah: &Howdah, name: &str) -> Result<ChangeStream, Status> {
    let request = GetChangeStreamRequest { name: name.into() };
    let answer = howdah.streams().await.get_change_stream(request).await;
    answer.map(tonic::Response::into_inner)
}

pub async fn ask_to_delete(howdah: &Howdah, name: &str, force: bool) -> Result<Operation, Status> {
    let request = DeleteChangeStreamRequest {
        name: name.into(),
        force,
        ..DeleteChangeStreamRequest::default()
    };
    let answer = howdah.streams().await.delete_change_stream(request).await;
    answer.map(tonic::Response::into_inner)
}

/// Deletes a stream, and waits until it is gone.
pub async fn delete(howdah: &Howdah, name: &str, force: bool) {
    let operation = ask_to_delete(howdah, name, force).await.unwrap();
    succeeded::<()>(&howdah.wait(&operation).await);
    assert_eq!(get(howdah, name).await.unwrap_err().code(), Code::NotFound);
}

/// Asks for the cancellation of an operation.
pub async fn cancel(howdah: &Howdah, operation: &Operation) {
    let request = CancelOperationRequest {
        name: operation.name.clone(),
    };
    howdah
        .operations()
        .await
        .cancel_operation(request)
        .await
        .unwrap();
}

/// What the stages of an operation wait for.
pub async fn waits_for(howdah: &Howdah, operation: &Operation) -> String {
    let now = howdah.operation(&operation.name).await;
    let metadata = OperationMetadata::decode(now.metadata.unwrap().value.as_slice()).unwrap();
    let stages = metadata.stages.into_iter();
    stages.map(|stage| stage.waits_for).collect()
}

/// Waits until an operation waits for something that is said so.
pub async fn waits_until(howdah: &Howdah, operation: &Operation, text: &str) {
    let what = format!("the operation waits for {text}");
    eventually(&what, async || {
        waits_for(howdah, operation).await.contains(text)
    })
    .await;
}

/// What Howdah has on the server in this database: slots with whether they are usable,
/// publications with how many tables they have, and sessions that are at work.
pub async fn objects(client: &Client) -> Vec<String> {
    let query = "select 'slot ' || slot_name || ' ' || (confirmed_flush_lsn is not null)
            from pg_replication_slots where database = current_database()
        union all select 'publication ' || pubname || ' ' || (select count(*)
            from pg_publication_tables t where t.pubname = p.pubname) from pg_publication p
        union all select 'session ' || application_name from pg_stat_activity
            where datname = current_database() and application_name ~ '^howdah_'
        order by 1";
    let rows = client.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until nothing is left but what the user has made.
pub async fn is_clean(rig: &Rig<'_>, left: &[&str]) {
    let expected: Vec<String> = left.iter().map(|it| (*it).to_owned()).collect();
    eventually("something is left on the server", async || {
        objects(&rig.sql).await == expected
    })
    .await;
}
