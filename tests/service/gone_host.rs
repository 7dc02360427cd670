//! What is said of a host on which no process has been seen for a minute.

use howdah::pb::v1::{
    Instance, StopInstanceRequest,
    instance::{LocalProviderConfig, ProviderConfig},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    replicas::{beside, options},
    rig::refused,
};
use crate::{
    soak::crash::world::metadata,
    support::howdah::{Howdah, create_database, create_instance, instance_name},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_the_host_and_what_brings_it_back() {
    let mut one = Howdah::serve(options().await).await;
    let instance = one.instance("orders").await;
    let host = instance.servers[0].host.clone();
    one.kill().await;
    let store = metadata(&one.options).await;
    let named = "update hosts set seen_time = now() - interval '1 hour', name = 'kiln'";
    store.execute(named, &[]).await.unwrap();
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
