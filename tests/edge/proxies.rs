//! Calls through nginx and HAProxy, configured as `docs/proxies.md` says.

mod rig;

use std::time::{Duration, Instant};

use howdah::pb::v1::{
    Database, DeleteInstanceRequest, GetDatabaseRequest, GetInstanceRequest, Instance,
    ListInstancesRequest, SubscribeRequest,
    change_stream_service_client::ChangeStreamServiceClient,
    database_service_client::DatabaseServiceClient, instance_service_client::InstanceServiceClient,
};
use tokio::{task::JoinSet, time::timeout};
use tonic::{
    Code, Request, Status,
    codec::CompressionEncoding,
    transport::{Channel, Endpoint},
};

use self::rig::{KINDS, Kind, Proxy};
use super::harness::{BOUND, Edge, Raw, Setup};
use crate::{
    service::run_sql,
    support::{
        howdah::{
            Howdah, LIMIT, Options, PROJECT, create_database, instance_name, reason, succeeded,
        },
        ports,
    },
};

/// Howdah behind a proxy, at ports that stay when it is started again.
async fn serve(options: Options) -> (Howdah, rig::Backend) {
    let [api, admin] = [ports::one(), ports::one()].map(|port| ([127, 0, 0, 1], port).into());
    let backend: rig::Backend = (api, admin);
    let options = options
        .with("HOWDAH_LISTEN", api.to_string())
        .with("HOWDAH_ADMIN_LISTEN", admin.to_string());
    (Howdah::serve(options).await, backend)
}

fn instances(client: &Raw) -> InstanceServiceClient<super::harness::Channel> {
    InstanceServiceClient::with_origin(client.channel(), Raw::origin())
}

fn get(id: &str) -> GetInstanceRequest {
    GetInstanceRequest {
        name: instance_name(id),
    }
}

fn named(name: &str) -> GetDatabaseRequest {
    GetDatabaseRequest { name: name.into() }
}

/// An edge of this process behind a proxy, whose service hangs on request.
async fn with_edge(kind: Kind) -> (Edge, Proxy) {
    let edge = Edge::start(Setup::default()).await;
    // No admin port: that of the API takes the probes, and refuses them.
    let unchecked = match kind {
        Kind::Nginx => &[][..],
        Kind::Haproxy => &[(" check port", " # check port")],
    };
    let proxy = Proxy::start(kind, &[(edge.port(), edge.port())], unchecked).await;
    (edge, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_streams_through_proxies() {
    let (howdah, backend) = serve(Options::external().await).await;
    howdah.instance("orders").await;
    let connection = howdah.database("orders", "shop").await;
    run_sql(&connection, "create table items (id int primary key)");
    for (number, kind) in KINDS.into_iter().enumerate() {
        let proxy = Proxy::start(kind, &[backend], &[("1h", "5s")]).await;
        let client = proxy.connect().await;
        let found = instances(&client)
            .get_instance(get("orders"))
            .await
            .unwrap();
        assert_eq!(found.get_ref().name, instance_name("orders"), "{kind:?}");
        errors(kind, &client).await;
        compression(kind, &client).await;
        let mut databases = DatabaseServiceClient::with_origin(client.channel(), Raw::origin());
        let id = format!("made-{number}");
        let accepted = databases
            .create_database(create_database("orders", &id))
            .await;
        let _: Database = succeeded(&howdah.wait(accepted.unwrap().get_ref()).await);
        let insert = format!("insert into items values ({number})");
        stream(kind, &client, || drop(run_sql(&connection, &insert))).await;
    }
}

/// Refusals come as they were sent, with their details, and longer than most headers are.
async fn errors(kind: Kind, client: &Raw) {
    let missing = instances(client).get_instance(get("missing")).await;
    let status = missing.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{kind:?} {status:?}");
    assert_eq!(reason(&status), "INSTANCE_NOT_FOUND", "{kind:?}");
    let wrong = DeleteInstanceRequest {
        name: "x".repeat(5000),
        request_id: "y".repeat(5000),
        etag: "z".repeat(5000),
        ..DeleteInstanceRequest::default()
    };
    let status = instances(client).delete_instance(wrong).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{kind:?} {status:?}");
    assert!(!reason(&status).is_empty(), "{kind:?} {status:?}");
}

async fn compression(kind: Kind, client: &Raw) {
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let list = ListInstancesRequest {
            parent: PROJECT.into(),
            filter: format!("display_name != \"{}\"", "x".repeat(900)),
            ..ListInstancesRequest::default()
        };
        let mut instances = instances(client)
            .send_compressed(encoding)
            .accept_compressed(encoding);
        let answer = instances.list_instances(list).await.unwrap();
        assert!(
            answer.metadata().get("grpc-encoding").is_some(),
            "{kind:?} {:?}",
            answer.metadata()
        );
        assert_eq!(answer.get_ref().instances.len(), 1, "{kind:?}");
    }
}

/// Heartbeats keep a stream alive for longer than the proxy waits for a silent server.
async fn stream(kind: Kind, client: &Raw, change: impl FnOnce()) {
    let mut streams = ChangeStreamServiceClient::with_origin(client.channel(), Raw::origin());
    let request = SubscribeRequest {
        instance: instance_name("orders"),
        database: "shop".into(),
        tables: vec!["items".into()],
        heartbeat_interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 500_000_000,
        }),
        ..SubscribeRequest::default()
    };
    let begin = Instant::now();
    let mut batches = streams.subscribe(request).await.unwrap().into_inner();
    let mut next = async || {
        let next = timeout(LIMIT, batches.message()).await;
        next.expect("a batch").unwrap().expect("no end")
    };
    // The proxy's timeout is 5 s here.
    while begin.elapsed() < Duration::from_secs(7) {
        assert_eq!(next().await.changes, [], "{kind:?}");
    }
    change();
    while next().await.changes.is_empty() {}
}

/// The server hears of a deadline, and of a client that goes away.
#[tokio::test]
async fn deadlines_and_cancellations_pass_proxies() {
    for kind in KINDS {
        let (edge, proxy) = with_edge(kind).await;
        let client = proxy.connect().await;
        let mut late = Request::new(named("hang"));
        late.set_timeout(Duration::from_millis(100));
        let answer = timeout(BOUND, client.databases().get_database(late)).await;
        let status = answer.expect("an answer").unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{kind:?} {status:?}");
        assert_eq!(reason(&status), "DEADLINE_EXCEEDED", "{kind:?}");
        let dropped = async || {
            let dropped = timeout(BOUND, edge.service.dropped.notified()).await;
            assert!(dropped.is_ok(), "{kind:?}: the handler goes on");
            edge.measured(&["howdah_rpc_active", " 0"]).await;
        };
        dropped().await;

        let mut calls = JoinSet::new();
        let mut databases = client.databases();
        calls.spawn(async move { databases.get_database(named("hang")).await });
        edge.measured(&["howdah_rpc_active", " 1"]).await;
        drop(calls);
        dropped().await;

        let asked = client
            .streams()
            .subscribe(SubscribeRequest::default())
            .await;
        let mut stream = asked.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        drop(stream);
        dropped().await;
    }
}

/// Two replicas are restarted one after the other. A client that tries again what is
/// UNAVAILABLE sees nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_behind_proxies_fail_no_call() {
    let options = Options::external().await;
    let (mut one, first) = serve(options.clone()).await;
    let (mut two, second) = serve(options).await;
    one.instance("orders").await;
    for kind in KINDS {
        let proxy = Proxy::start(kind, &[first, second], &[]).await;
        let endpoint = Endpoint::from_shared(format!("http://{}", proxy.address)).unwrap();
        let over = tokio_util::sync::CancellationToken::new();
        let callers = (0..4).map(|_| calls(endpoint.connect_lazy(), over.clone()));
        let callers = JoinSet::from_iter(callers);
        for howdah in [&mut one, &mut two] {
            assert!(howdah.stop().await.success(), "{kind:?}");
            howdah.start("").await;
        }
        over.cancel();
        let done: usize = callers.join_all().await.into_iter().sum();
        assert!(done > 20, "{kind:?}: {done} calls");
    }
}

/// Calls until it is over; how many calls.
async fn calls(channel: Channel, over: tokio_util::sync::CancellationToken) -> usize {
    let mut instances = InstanceServiceClient::new(channel);
    let mut done = 0;
    while !over.is_cancelled() {
        let _: Instance = patiently(&mut instances).await.unwrap();
        done += 1;
    }
    done
}

async fn patiently(instances: &mut InstanceServiceClient<Channel>) -> Result<Instance, Status> {
    let end = Instant::now() + LIMIT;
    loop {
        match instances.get_instance(get("orders")).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if status.code() == Code::Unavailable && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(status) => return Err(status),
        }
    }
}
