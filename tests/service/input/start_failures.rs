//! Starts that PostgreSQL refuses.

use howdah::pb::v1::{GetInstanceRequest, Instance, StartInstanceRequest, StopInstanceRequest};
use tonic::Code::FailedPrecondition;

use super::parameters::with_parameters;
use crate::{
    service::rig::{Metadata, failure, serve},
    support::howdah::{Howdah, create_instance, failed, instance_name, succeeded},
};

/// What a creation with that parameter fails with.
async fn not_started(howdah: &Howdah, name: &str, value: &str) -> String {
    let request = create_instance("broken", with_parameters(&[(name, value)]));
    let accepted = howdah.instances().await.create_instance(request).await;
    let operation = howdah.wait(accepted.unwrap().get_ref()).await;
    let start_failed = (FailedPrecondition, "SERVER_START_FAILED".to_owned());
    assert_eq!(failure(&operation), start_failed);
    // The instance is gone, and the operation still tells why.
    let name = instance_name("broken");
    let request = GetInstanceRequest { name };
    let gone = howdah.instances().await.get_instance(request).await;
    assert!(gone.is_err(), "{gone:?}");
    failed(&howdah.operation(&operation.name).await).1
}

/// Why a server does not start is said in PostgreSQL's words, with the parameter.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_what_postgresql_said() {
    let howdah = serve().await;
    for (name, value, said) in [
        (
            "shared_buffers",
            "7TB",
            "could not map anonymous shared memory: Cannot allocate memory",
        ),
        (
            "shared_preload_libraries",
            "nolib",
            "could not access file \"nolib\": No such file or directory",
        ),
        (
            "timezone",
            "Mars/Phobos",
            "invalid value for parameter \"TimeZone\": \"Mars/Phobos\"",
        ),
    ] {
        let message = not_started(&howdah, name, value).await;
        let expected = format!("starting the server failed: {said} (parameters: {name})");
        assert_eq!(message, expected);
    }
    let secret = not_started(&howdah, "search_path", "\"password hunter2").await;
    assert!(secret.contains("is not shown"), "{secret}");
    assert!(!secret.contains("hunter2"), "{secret}");

    // An instance that is there says it in its condition.
    howdah.instance("orders").await;
    let name = || instance_name("orders");
    let request = StopInstanceRequest {
        name: name(),
        ..StopInstanceRequest::default()
    };
    let accepted = howdah.instances().await.stop_instance(request).await;
    let _: Instance = succeeded(&howdah.wait(accepted.unwrap().get_ref()).await);
    let set = r#"update instances set parameters = '{"timezone": "Mars/Phobos"}'"#;
    Metadata::of(&howdah).await.execute(set).await;
    let request = StartInstanceRequest {
        name: name(),
        ..StartInstanceRequest::default()
    };
    let accepted = howdah.instances().await.start_instance(request).await;
    let operation = howdah.wait(accepted.unwrap().get_ref()).await;
    let request = GetInstanceRequest { name: name() };
    let found = howdah.instances().await.get_instance(request).await;
    let found = found.unwrap().into_inner();
    let available = found.conditions.iter().find(|it| it.r#type == "Available");
    let available = available.unwrap();
    assert_eq!(available.reason, "SERVER_START_FAILED");
    assert_eq!(available.message, failed(&operation).1);
    let said = "invalid value for parameter \"TimeZone\": \"Mars/Phobos\" (parameters: timezone)";
    assert!(available.message.ends_with(said), "{available:?}");
}
