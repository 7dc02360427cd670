//! What is said of a host on which no process has been seen for a minute.

use std::fs;

use howdah::pb::{
    google::longrunning::{CancelOperationRequest, ListOperationsRequest, Operation},
    v1::{
        Instance, OperationMetadata, StopInstanceRequest,
        instance::{LocalProviderConfig, ProviderConfig},
    },
};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    replicas::{beside, options},
    rig::refused,
};
use crate::{
    soak::crash::world::metadata,
    support::howdah::{
        Howdah, PROJECT, create_database, create_instance, eventually, instance_name, signal,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_the_host_and_what_brings_it_back() {
    let mut one = Howdah::serve(options().await).await;
    let instance = one.instance("orders").await;
    let host = instance.servers[0].host.clone();
    one.kill().await;
    let store = metadata(&one.options).await;
    let named = "update hosts set name = 'kiln';
        update processes set seen_time = now() - interval '1 hour'";
    store.batch_execute(named).await.unwrap();
    // Two connections, so that a refusal that waits for a second one while it holds the
    // first would show.
    let two = Howdah::serve(beside(&one).with("HOWDAH_DATABASE_MAX_CONNECTIONS", "2")).await;

    let stop = || async {
        let request = StopInstanceRequest {
            name: instance_name("orders"),
            ..StopInstanceRequest::default()
        };
        let answer = two.instances().await.stop_instance(request).await;
        refused(answer, Code::FailedPrecondition, "HOST_UNAVAILABLE")
    };
    for status in futures::future::join_all((0..8).map(|_| stop())).await {
        names(&status, &host);
        let message = status.message();
        assert!(
            message.contains("only if the host is lost for good"),
            "{message}"
        );
        assert!(message.contains("is left alone"), "{message}");
    }
    let request = create_database("orders", "shop");
    let answer = two.databases().await.create_database(request).await;
    names(
        &refused(answer, Code::FailedPrecondition, "HOST_UNAVAILABLE"),
        &host,
    );

    let there = LocalProviderConfig { host: host.clone() };
    let new = Instance {
        provider_config: Some(ProviderConfig::Local(there)),
        ..Instance::default()
    };
    let answer = two
        .instances()
        .await
        .create_instance(create_instance("billing", new))
        .await;
    let status = refused(answer, Code::FailedPrecondition, "HOST_UNAVAILABLE");
    names(&status, &host);
    assert!(status.message().contains("name another host"), "{status}");
}

/// It looks alive otherwise. The refusal of a cancellation says what brings the host back.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_says_that_its_host_is_silent() {
    let mut one = Howdah::new(options().await);
    one.start("instance.create.start.before_effect=pause").await;
    let request = create_instance("orders", Instance::default());
    let accepted = one.instances().await.create_instance(request).await;
    let operation = accepted.unwrap().into_inner();
    let store = metadata(&one.options).await;
    let begun = "select count(*) from operation_stages where name = 'start' and state = 'RUNNING'";
    eventually("it has begun", async || {
        store.query_one(begun, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    one.kill().await;
    let named = "with silent as (update processes set seen_time = '2026-11-21 10:00 UTC')
        update hosts set name = 'kiln' returning id::text";
    let host: String = store.query_one(named, &[]).await.unwrap().get(0);

    let two = Howdah::serve(beside(&one)).await;
    let silent = format!("the host kiln ({host}), silent since 2026-11-21T10:00:00Z");
    assert_eq!(waits_for(&two.operation(&operation.name).await), silent);
    let list = ListOperationsRequest {
        name: PROJECT.into(),
        ..ListOperationsRequest::default()
    };
    let listed = two.operations().await.list_operations(list).await;
    assert_eq!(
        waits_for(&listed.unwrap().into_inner().operations[0]),
        silent
    );
    for requested in [false, true] {
        let cancel = CancelOperationRequest {
            name: operation.name.clone(),
        };
        let answer = two.operations().await.cancel_operation(cancel).await;
        let status = refused(answer, Code::FailedPrecondition, "HOST_UNAVAILABLE");
        names(&status, &host);
        assert!(status.message().contains("`force` and `purge`"), "{status}");
        let undoing = "update operations set cancel_requested = true, state = 'UNDOING'";
        if !requested {
            store.execute(undoing, &[]).await.unwrap();
        }
    }
    // Its own host is there, whatever the record says until it is written again.
    store.execute(named, &[]).await.unwrap();
    one.start("").await;
    assert_eq!(waits_for(&one.operation(&operation.name).await), "");
}

/// What the present stages of an operation wait for.
fn waits_for(operation: &Operation) -> String {
    let metadata = operation.metadata.as_ref().unwrap();
    let metadata = OperationMetadata::decode(metadata.value.as_slice()).unwrap();
    let stages = metadata.stages.iter();
    stages.map(|stage| stage.waits_for.as_str()).collect()
}

/// The message and the metadata have the host's id and name, and what to do first.
fn names(status: &Status, host: &str) {
    let said = format!(
        "no Howdah process has been seen for a minute on the host kiln ({host}): start it there; "
    );
    assert!(status.message().starts_with(&said), "{status}");
    let details = status.get_error_details();
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!(metadata["host"], host);
    assert_eq!(metadata["host_name"], "kiln");
}

/// The root of a host is lost with its servers. The process that served there serves for a new
/// host, and its own signs of life are none of the former one.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_root_is_lost_is_gone() {
    let mut howdah = Howdah::serve(options().await).await;
    let instance = howdah.instance("orders").await;
    howdah.stop().await;
    for server in howdah.servers() {
        signal(server, "KILL");
    }
    eventually("the server has ended", async || howdah.servers().is_empty()).await;
    fs::remove_dir_all(howdah.data_dir().join("local")).unwrap();
    howdah.start("").await;
    let store = metadata(&howdah.options).await;
    let host = &instance.servers[0].host;
    let silent =
        format!("update processes set seen_time = now() - interval '1 hour' where host = '{host}'");
    assert_eq!(store.execute(&silent, &[]).await.unwrap(), 1);
    let request = StopInstanceRequest {
        name: instance_name("orders"),
        ..StopInstanceRequest::default()
    };
    let answer = howdah.instances().await.stop_instance(request).await;
    refused(answer, Code::FailedPrecondition, "HOST_UNAVAILABLE");
}
