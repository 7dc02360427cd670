//! Calls that are cancelled at once, by one client or by a proxy for many.

use howdah::pb::v1::GetDatabaseRequest;

use super::{
    frames::{self, Framed, GOAWAY, PING},
    harness::{Edge, Setup},
};

const GET: &str = "/howdah.v1.DatabaseService/GetDatabase";

/// So many calls that are cancelled, as one write.
fn burst(first: u32, count: u32) -> Vec<u8> {
    let streams = (0..count).map(|number| first + 2 * number);
    streams
        .flat_map(|stream| frames::cancelled(stream, GET))
        .collect()
}

async fn answered(edge: &Edge) {
    let client = edge.connect().await;
    let request = GetDatabaseRequest {
        name: "shop".to_owned(),
    };
    client.databases().get_database(request).await.unwrap();
}

/// A proxy whose clients all leave cancels their calls in one breath.
#[tokio::test]
async fn many_calls_that_are_cancelled_at_once_do_not_end_a_connection() {
    let edge = Edge::start(Setup::default()).await;
    let mut client = Framed::connect(edge.port(), 65_535).await;
    for round in 0..4 {
        client.write(&burst(1 + 2 * 500 * round, 500)).await;
        let answer = client.ping().await.expect("the connection goes on");
        assert_eq!(answer.kind, PING, "{answer:?}");
    }
    edge.measured(&["howdah_rpc_active", " 0"]).await;
}

/// Calls that are cancelled before they are looked at are bounded.
#[tokio::test]
async fn a_flood_of_cancelled_calls_leaves_others_their_answers() {
    let edge = Edge::start(Setup::default()).await;
    let mut client = Framed::connect(edge.port(), 65_535).await;
    for round in 0..40 {
        client.write(&burst(1 + 2 * 500 * round, 500)).await;
        answered(&edge).await;
    }
    let answer = client.ping().await.expect("an answer or a goodbye");
    assert!(matches!(answer.kind, PING | GOAWAY), "{answer:?}");
    edge.measured(&["howdah_rpc_active", " 0"]).await;
}
