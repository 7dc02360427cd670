//! Callers that do not wait for one another: after an outage the queue is full of those
//! whose time is nearly over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use howdah::pb::v1::{GetInstanceRequest, instance_service_client::InstanceServiceClient};
use tokio::task::JoinSet;

use super::load::INSTANCE;
use crate::support::{
    howdah::{Howdah, instance_name},
    metadata_server::MetadataServer,
};

/// How late each message is, as from another region: a connection takes longer than the
/// time that the first in the queue has left.
const DISTANCE: Duration = Duration::from_millis(25);

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(10);

/// Longer than a caller waits for a connection.
const OUTAGE: Duration = Duration::from_secs(8);

/// Longest time until calls are answered again.
const SOON: Duration = Duration::from_secs(10);

/// Calls again and again without waiting for answers; says when one succeeds.
async fn load(howdah: &Howdah, succeeded: &Arc<AtomicBool>, until: Instant) {
    let client = InstanceServiceClient::new(howdah.channel().await);
    let mut calls = JoinSet::new();
    while Instant::now() < until && !succeeded.load(Ordering::Acquire) {
        let (mut client, succeeded) = (client.clone(), Arc::clone(succeeded));
        calls.spawn(async move {
            let name = instance_name(INSTANCE);
            let request = GetInstanceRequest { name };
            if client.get_instance(request).await.is_ok() {
                succeeded.store(true, Ordering::Release);
            }
        });
        tokio::time::sleep(PAUSE).await;
        while calls.try_join_next().is_some() {}
    }
    calls.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_made_while_callers_queue() {
    let mut metadata = MetadataServer::start().await;
    let options = metadata
        .options()
        .with("HOWDAH_SECRET_KEY", crate::support::howdah::SECRET_KEY);
    let howdah = Howdah::serve(options).await;
    howdah.instance(INSTANCE).await;
    metadata.proxy.refuse().await;
    metadata.proxy.cut();
    let succeeded = Arc::<AtomicBool>::default();
    // What was sent before the cut may still be answered.
    let began = Instant::now();
    load(&howdah, &Arc::default(), began + OUTAGE).await;
    metadata.proxy.pass();
    metadata.proxy.delay(DISTANCE);
    let back = Instant::now();
    load(&howdah, &succeeded, back + SOON).await;
    assert!(
        succeeded.load(Ordering::Acquire),
        "no call was answered within {SOON:?} of the end of the outage"
    );
}
