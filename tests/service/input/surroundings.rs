//! Machines that lack something.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use howdah::pb::v1::{Instance, OperationMetadata};
use tonic::Code::{FailedPrecondition, ResourceExhausted};

use crate::{
    service::rig::{Metadata, failure, refused, serve},
    support::howdah::{Howdah, Options, create_instance, eventually, instance_name, succeeded},
};

/// Runs `howdah serve` with other surroundings; it ends by itself.
fn ends(howdah: &Howdah, change: impl FnOnce(&mut Command)) -> (Option<i32>, String) {
    let mut command = howdah.command("serve", "");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    change(&mut command);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[tokio::test]
async fn a_data_directory_is_served_by_one_process() {
    let howdah = serve().await;
    let (code, text) = ends(&howdah, |_| {});
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("DATA_DIR_IN_USE"), "{text}");
    // The first one does not mind.
    assert!(!howdah.endpoint().is_empty());
    howdah.instance("orders").await;
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_written_is_named() {
    let howdah = Howdah::new(Options::external().await);
    // Root writes anywhere but below a file, and in a file system that has none.
    let file = howdah.directory().join("file");
    fs::write(&file, "").unwrap();
    for place in [file.join("data"), file, "/proc/howdah".into()] {
        let (code, text) = ends(&howdah, |command| {
            command.env("HOWDAH_DATA_DIR", &place);
        });
        assert_eq!(code, Some(5), "{text}");
        assert!(text.contains("DATA_DIR_UNWRITABLE"), "{text}");
        assert!(text.contains(place.to_str().unwrap()), "{text}");
    }
}

/// The place for servers became unwritable while it serves.
#[tokio::test]
async fn a_root_that_cannot_be_written_fails_the_operation_and_leaves_nothing() {
    let howdah = serve().await;
    howdah.instance("first").await;
    let servers = howdah.data_dir().join("local/servers");
    let aside = howdah.data_dir().join("local/aside");
    fs::rename(&servers, &aside).unwrap();
    fs::write(&servers, "in the way").unwrap();
    let request = create_instance("orders", Instance::default());
    let answer = howdah.instances().await.create_instance(request).await;
    let operation = answer.unwrap().into_inner();
    // What was begun cannot be taken back either; that is tried until it can.
    eventually("the trouble is told", async || {
        let found = howdah.operation(&operation.name).await;
        let any = found.metadata.unwrap();
        let metadata: OperationMetadata = prost::Message::decode(any.value.as_slice()).unwrap();
        metadata.last_error.contains("cannot be written")
    })
    .await;
    fs::remove_file(&servers).unwrap();
    fs::rename(&aside, &servers).unwrap();
    let (code, why) = failure(&howdah.wait(&operation).await);
    assert_eq!(
        (code, why.as_str()),
        (FailedPrecondition, "DATA_DIR_UNWRITABLE")
    );
    let metadata = Metadata::of(&howdah).await;
    assert_eq!(metadata.count("instances").await, 1);
    assert_eq!(howdah.local("servers").len(), 1);
    howdah.instance("orders").await;
}

#[tokio::test]
async fn ports_run_out() {
    // Two ports, of which another program has one.
    let held = (21_000..32_000)
        .step_by(2)
        .find_map(|port| {
            let listener = TcpListener::bind(("127.0.0.1", port)).ok()?;
            TcpListener::bind(("127.0.0.1", port + 1)).ok()?;
            Some(listener)
        })
        .unwrap();
    let port = held.local_addr().unwrap().port();
    let options = Options::external().await;
    let options = options.with("HOWDAH_LOCAL_PORTS", format!("{port}-{}", port + 1));
    let howdah = Howdah::serve(options).await;
    let first = howdah.instance("first").await;
    assert_eq!(first.endpoint.unwrap().port, i32::from(port + 1));
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    for id in ["second", "third"] {
        let request = create_instance(id, Instance::default());
        let answer = howdah.instances().await.create_instance(request).await;
        refused(answer, ResourceExhausted, "PORTS_EXHAUSTED");
    }
    assert_eq!(metadata.content().await, before);
    // A purged instance gives its port back.
    let request = howdah::pb::v1::DeleteInstanceRequest {
        name: instance_name("first"),
        purge: true,
        ..Default::default()
    };
    let answer = howdah.instances().await.delete_instance(request).await;
    let _: () = succeeded(&howdah.wait(answer.unwrap().get_ref()).await);
    howdah.instance("second").await;
}

/// Without any PostgreSQL the service still serves, and says what is missing.
#[tokio::test]
async fn postgresql_may_be_missing() {
    let options = Options::external().await;
    let options = options.with("HOWDAH_LOCAL_SYSTEM_ENGINES", "false");
    let howdah = Howdah::serve(options).await;
    let request = howdah::pb::v1::ListEnginesRequest {
        parent: crate::support::howdah::PROJECT.into(),
    };
    let engines = howdah.instances().await.list_engines(request).await;
    assert!(engines.unwrap().into_inner().engines.is_empty());
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    let request = create_instance("orders", Instance::default());
    let answer = howdah.instances().await.create_instance(request).await;
    let status = refused(answer, FailedPrecondition, "POSTGRESQL_NOT_FOUND");
    assert!(status.message().contains("howdah doctor"), "{status:?}");
    assert_eq!(metadata.content().await, before);
}

/// Embedded metadata without a PostgreSQL cannot begin.
#[tokio::test]
async fn embedded_metadata_needs_a_postgresql() {
    let options = Options::default().with("HOWDAH_LOCAL_SYSTEM_ENGINES", "false");
    let howdah = Howdah::new(options);
    let (code, text) = ends(&howdah, |_| {});
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("POSTGRESQL_NOT_FOUND"), "{text}");
}

/// Half of an installation is listed with what it lacks, and refused by name.
#[tokio::test]
async fn an_installation_may_lack_a_program() {
    let half = tempfile::tempdir().unwrap();
    fs::set_permissions(half.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let postgres = half.path().join("postgres");
    fs::write(&postgres, "#!/bin/sh\necho 'postgres (PostgreSQL) 15.1'\n").unwrap();
    fs::set_permissions(&postgres, fs::Permissions::from_mode(0o755)).unwrap();
    let options = Options::external().await;
    let options = options.with("HOWDAH_LOCAL_SYSTEM_ENGINES", "false").with(
        "HOWDAH_LOCAL_ENGINE_DIRECTORIES",
        half.path().display().to_string(),
    );
    let howdah = Howdah::serve(options).await;
    let request = create_instance("orders", Instance::default());
    let answer = howdah.instances().await.create_instance(request).await;
    let status = refused(answer, FailedPrecondition, "TOOL_MISSING");
    assert!(status.message().contains("initdb"), "{status:?}");
}
