//! The service over longer times: outages and clients that leave.

use std::time::{Duration, Instant};

use crate::service::{self, clients_leave, metadata_goes_away_for};

/// As long as a failover of the metadata database takes.
#[tokio::test]
async fn metadata_away_for_half_a_minute_under_load() {
    metadata_goes_away_for(Duration::from_secs(30)).await;
}

/// A thousand mutations at a time, each time at other moments.
#[tokio::test]
async fn clients_leave_at_random() {
    let mut numbers = super::Numbers(super::seed());
    let end = super::deadline();
    loop {
        clients_leave(1000, numbers.next()).await;
        if end.is_none_or(|end| Instant::now() >= end) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_on_a_frozen_server_is_given_up() {
    service::a_statement_on_a_frozen_server_is_given_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_not_available() {
    service::a_frozen_server_is_not_available().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_servers_leave_workers_for_others() {
    service::frozen_servers_leave_workers_for_others().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_servers_leave_workers_beside_cancelled_work() {
    service::frozen_servers_leave_workers_beside_cancelled_work().await;
}
