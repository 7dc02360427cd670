//! Callers with very short deadlines do not keep others from the metadata.

use std::time::{Duration, Instant};

use futures::future::join_all;
use howdah::pb::v1::{GetInstanceRequest, instance_service_client::InstanceServiceClient};
use tokio::task::JoinSet;
use tonic::{Code, Request, transport::Channel};

use super::load::INSTANCE;
use crate::support::{
    howdah::{Howdah, instance_name},
    metadata_server::MetadataServer,
};

const HASTY: usize = 50;
const ORDINARY: usize = 8;
const LASTING: Duration = Duration::from_secs(5);

/// How late each message from and to the metadata is, as from another zone of a cloud: a
/// connection takes more than ten round trips, a call one or two.
const DISTANCE: Duration = Duration::from_millis(5);

/// Between two calls of one hasty caller.
const PAUSE: Duration = Duration::from_millis(20);

/// Calls whose time is over before they can be answered. How many were cut off.
async fn hasty(channel: Channel, name: String, number: usize, end: Instant) -> usize {
    let mut client = InstanceServiceClient::new(channel);
    let mut cut_off = 0;
    while Instant::now() < end {
        let mut request = Request::new(GetInstanceRequest { name: name.clone() });
        let deadline = 1000 + (number * 37 % 1000) as u64;
        request.set_timeout(Duration::from_micros(deadline));
        if let Err(status) = client.get_instance(request).await {
            // Its connection may be closed too: many streams are reset on it.
            assert_ne!(status.code(), Code::Internal, "{status:?}");
            cut_off += 1;
        }
        tokio::time::sleep(PAUSE).await;
    }
    cut_off
}

/// A call without a deadline; how long it took.
async fn ordinary(channel: &Channel) -> Duration {
    let began = Instant::now();
    let name = instance_name(INSTANCE);
    let mut client = InstanceServiceClient::new(channel.clone());
    let answer = client.get_instance(GetInstanceRequest { name }).await;
    answer.expect("an ordinary call is answered");
    began.elapsed()
}

async fn ordinary_until(channel: Channel, end: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    while Instant::now() < end {
        times.push(ordinary(&channel).await);
    }
    times
}

/// Ordinary calls, all of which are answered, beside hasty callers that ask for this
/// name. Prints how long ninety-nine of a hundred take at most.
async fn beside(channels: &[Channel], name: &str) {
    let end = Instant::now() + LASTING;
    let (mut in_haste, mut others) = (JoinSet::new(), JoinSet::new());
    let (own, shared) = channels.split_at(ORDINARY);
    for channel in own {
        others.spawn(ordinary_until(channel.clone(), end));
    }
    for number in 0..HASTY {
        let channel = shared[number % shared.len()].clone();
        in_haste.spawn(hasty(channel, name.to_owned(), number, end));
    }
    let mut times: Vec<Duration> = others.join_all().await.concat();
    let cut_off: usize = in_haste.join_all().await.iter().sum();
    assert!(cut_off > HASTY, "only {cut_off} calls were cut off");
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    let count = times.len();
    eprintln!("{p99:?} for 99 of 100 of {count} calls beside {cut_off} for {name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hasty_callers_harm_nobody() {
    let metadata = MetadataServer::start().await;
    let howdah = Howdah::serve(metadata.options()).await;
    howdah.instance(INSTANCE).await;
    metadata.proxy.delay(DISTANCE);
    let mut channels = Vec::new();
    for _ in 0..ORDINARY + 10 {
        channels.push(howdah.channel().await);
    }
    // Connections are made before it begins.
    join_all(channels[..ORDINARY].iter().map(ordinary)).await;
    beside(&channels, &instance_name(INSTANCE)).await;
}
