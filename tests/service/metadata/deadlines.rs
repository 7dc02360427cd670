//! Callers with very short deadlines do not keep others from the metadata.

use std::time::{Duration, Instant};

use howdah::pb::v1::{GetInstanceRequest, instance_service_client::InstanceServiceClient};
use tokio::task::JoinSet;
use tonic::{Code, Request, transport::Channel};

use super::load::INSTANCE;
use crate::{service::rig::serve, support::howdah::instance_name};

const HASTY: usize = 200;
const ORDINARY: usize = 8;
const LASTING: Duration = Duration::from_secs(5);

/// Longest that ninety-nine of a hundred ordinary calls take.
const P99: Duration = Duration::from_secs(1);

fn request() -> Request<GetInstanceRequest> {
    Request::new(GetInstanceRequest {
        name: instance_name(INSTANCE),
    })
}

/// Calls whose time is over before they can be answered. How many were cut off.
async fn hasty(channel: Channel, number: usize, end: Instant) -> usize {
    let mut client = InstanceServiceClient::new(channel);
    let mut cut_off = 0;
    while Instant::now() < end {
        let mut request = request();
        let deadline = 1000 + (number * 37 % 1000) as u64;
        request.set_timeout(Duration::from_micros(deadline));
        if let Err(status) = client.get_instance(request).await {
            let expected = [Code::DeadlineExceeded, Code::Cancelled, Code::Unavailable];
            assert!(expected.contains(&status.code()), "{status:?}");
            cut_off += 1;
        }
    }
    cut_off
}

/// Calls without a deadline; how long each took.
async fn ordinary(channel: Channel, end: Instant) -> Vec<Duration> {
    let mut client = InstanceServiceClient::new(channel);
    let mut times = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        let answer = client.get_instance(request()).await;
        answer.expect("an ordinary call is answered");
        times.push(began.elapsed());
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn hasty_callers_harm_nobody() {
    let howdah = serve().await;
    howdah.instance(INSTANCE).await;
    let end = Instant::now() + LASTING;
    let (mut in_haste, mut others) = (JoinSet::new(), JoinSet::new());
    for _ in 0..ORDINARY {
        others.spawn(ordinary(howdah.channel().await, end));
    }
    let mut channels = Vec::new();
    for _ in 0..10 {
        channels.push(howdah.channel().await);
    }
    for number in 0..HASTY {
        let channel = channels[number % channels.len()].clone();
        in_haste.spawn(hasty(channel, number, end));
    }
    let mut times: Vec<Duration> = others.join_all().await.concat();
    let cut_off: usize = in_haste.join_all().await.iter().sum();
    assert!(cut_off > HASTY, "only {cut_off} calls were cut off");
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    assert!(p99 < P99, "{p99:?} for 99 of 100 of {} calls", times.len());
}
