//! Other callers are answered beside thousands of calls that last.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use howdah::{
    api::status,
    domain::Reason,
    pb::{
        google::longrunning::{WaitOperationRequest, operations_client::OperationsClient},
        v1::{GetInstanceRequest, Instance, StopInstanceRequest},
    },
};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tonic::{Code, Status};

use super::rig::{Metadata, counter, queries, serve};
use crate::support::howdah::{Howdah, LIMIT, Options, create_instance, eventually, instance_name};

const HALF_SENT: usize = 800;

/// More than calls may be under way.
const WAITS: usize = 1200;

/// Calls on each connection, below the bound on its streams.
const EACH: usize = 200;

/// Gets an instance and creates another, while others wait for much longer.
async fn answered(howdah: &Howdah) {
    let calls = async {
        let mut instances = howdah.instances().await;
        let name = instance_name("orders");
        let got = instances.get_instance(GetInstanceRequest { name }).await;
        got.unwrap();
        let mut create = create_instance("other", Instance::default());
        create.validate_only = true;
        instances.create_instance(create).await.unwrap();
    };
    timeout(LIMIT, calls).await.expect("answered in time");
}

/// Begins requests of which only the headers and a part of the message come.
async fn half_sent(howdah: &Howdah) -> JoinSet<hyper::Result<()>> {
    let mut calls = JoinSet::new();
    for _ in 0..HALF_SENT / EACH {
        let tcp = TcpStream::connect(howdah.endpoint()).await.unwrap();
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp));
        let (sender, connection) = handshake.await.unwrap();
        calls.spawn(connection);
        for _ in 0..EACH {
            let begin = Frame::data(Bytes::from_static(&[0, 0, 0, 0, 99, 10]));
            let body = stream::iter([Ok::<_, Status>(begin)]).chain(stream::pending());
            let uri = "http://localhost/howdah.v1.InstanceService/GetInstance";
            let request = http::Request::post(uri)
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            let mut sender = sender.clone();
            let request = request.body(StreamBody::new(body)).unwrap();
            calls.spawn(async move { sender.send_request(request).await.map(drop) });
        }
    }
    calls
}

/// The calls under way that the program knows of.
async fn active(howdah: &Howdah, count: usize) {
    eventually("all calls have come", async || {
        counter(howdah, "howdah_rpc_active").await == count as u64
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_while_thousands_wait() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;
    metadata.occupy("orders").await;
    let sql = "select 'projects/' || project || '/operations/' || id from operations
        where kind = 'test.occupy'";
    let name: String = metadata.0.query_one(sql, &[]).await.unwrap().get(0);

    let unfinished = half_sent(&howdah).await;
    active(&howdah, HALF_SENT).await;
    answered(&howdah).await;
    drop(unfinished);
    active(&howdah, 0).await;

    let mut waits = JoinSet::new();
    for _ in 0..WAITS / EACH {
        let client = OperationsClient::new(howdah.channel().await);
        for _ in 0..EACH {
            let (mut client, name) = (client.clone(), name.clone());
            waits.spawn(async move {
                let timeout = None;
                let request = WaitOperationRequest { name, timeout };
                client.wait_operation(request).await
            });
        }
    }
    active(&howdah, WAITS).await;
    answered(&howdah).await;
    let end = "update operations set state = 'CANCELLED', end_time = now()
        where kind = 'test.occupy'";
    metadata.execute(end).await;
    for answer in waits.join_all().await {
        assert!(answer.unwrap().into_inner().done);
    }
    let queries = queries(&howdah, "operations.by_id").await;
    // They share them: one by one they would take all connections to the metadata.
    assert!(queries < WAITS as u64, "{queries}");
}

/// A mutation continues without its caller, and keeps its place meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_their_callers_have_left_keep_their_places() {
    const PLACES: usize = 4;
    let options = Options::external()
        .await
        .with("HOWDAH_SERVER_MAX_IN_FLIGHT", "4")
        .with("HOWDAH_SERVER_MAX_IN_FLIGHT_PER_CALLER", "4");
    let howdah = Howdah::serve(options).await;
    howdah.instance("orders").await;
    let metadata = Metadata::of(&howdah).await;
    let lock = "begin; select from instances for update";
    metadata.execute(lock).await;
    let mut instances = howdah.instances().await;
    for _ in 0..PLACES {
        let name = instance_name("orders");
        let mut request = tonic::Request::new(StopInstanceRequest {
            name,
            ..StopInstanceRequest::default()
        });
        request.set_timeout(Duration::from_millis(50));
        let status = instances.stop_instance(request).await.unwrap_err();
        let left = [Code::DeadlineExceeded, Code::Cancelled];
        assert!(left.contains(&status.code()), "{status:?}");
    }
    let name = instance_name("orders");
    let get = GetInstanceRequest { name };
    let status = instances.get_instance(get.clone()).await.unwrap_err();
    assert_eq!(status::reason(&status), Some(Reason::BudgetExhausted));
    metadata.execute("rollback").await;
    eventually("the places are free", async || {
        instances.clone().get_instance(get.clone()).await.is_ok()
    })
    .await;
}
