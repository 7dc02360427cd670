//! What leaves the program to be looked at: traces, metrics, logs, the audit.

use howdah::pb::v1::ListInstancesRequest;
use opentelemetry_proto::tonic::{common::v1::any_value::Value, trace::v1::ResourceSpans};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::{Request, transport::Identity};

use super::{collector::Collector, tls::Files};
use crate::support::howdah::{Howdah, LIMIT, Options, PROJECT};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Which process has sent traces.
fn sender(spans: ResourceSpans) -> String {
    let attributes = spans.resource.unwrap().attributes.into_iter();
    let mut found = attributes.filter(|entry| entry.key == "service.instance.id");
    match found.next().and_then(|entry| entry.value?.value) {
        Some(Value::StringValue(id)) => id,
        other => panic!("no id: {other:?}"),
    }
}

async fn call(howdah: &Howdah) {
    let mut request = Request::new(ListInstancesRequest {
        parent: PROJECT.into(),
        ..Default::default()
    });
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01").parse().unwrap();
    request.metadata_mut().insert("traceparent", parent);
    let mut instances = howdah.instances().await;
    instances.list_instances(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_told_apart_by_a_collector_with_tls() {
    let files = Files::new();
    let read = |name: &str| std::fs::read_to_string(files.path(name)).unwrap();
    let identity = Identity::from_pem(read("server.pem"), read("server.key"));
    let mut collector = Collector::start(Some(identity)).await;
    let port = collector.port;
    let options = Options::external()
        .await
        .with("HOWDAH_OTLP_ENDPOINT", format!("https://localhost:{port}"))
        .with("SSL_CERT_FILE", files.path("ca.pem"));
    let mut replicas = Vec::new();
    for _ in 0..2 {
        let mut howdah = Howdah::serve(options.clone()).await;
        call(&howdah).await;
        // What it still holds is sent at the end.
        assert!(howdah.stop().await.success());
        let spans = timeout(LIMIT, collector.received.recv()).await;
        replicas.push(sender(spans.expect("it is exported").unwrap()));
        while let Ok(spans) = collector.received.try_recv() {
            assert_eq!(replicas.last(), Some(&sender(spans)));
        }
    }
    assert_ne!(replicas[0], replicas[1]);
    for id in replicas {
        assert!(uuid::Uuid::try_parse(&id).is_ok(), "{id}");
    }
}

/// Lines of the log that a call wrote in `target`, as JSON.
fn lines(howdah: &Howdah, target: &str, method: &str) -> Vec<serde_json::Value> {
    let log = howdah.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let of_call = |line: &serde_json::Value| {
        line["target"] == target
            && line["spans"].as_array().is_some_and(|spans| {
                let ends = |span: &serde_json::Value| {
                    span["rpc.method"]
                        .as_str()
                        .is_some_and(|name| name.ends_with(method))
                };
                spans.iter().any(ends)
            })
    };
    lines.filter(of_call).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_logged_with_their_trace_and_audited() {
    let options = Options::external().await;
    let options = options.with("HOWDAH_LOG_FILTER", "info,access=debug");
    let howdah = Howdah::serve(options).await;
    call(&howdah).await;
    let listed = lines(&howdah, "access", "/ListInstances");
    assert_eq!(listed.len(), 1, "{}", howdah.log());
    assert_eq!(listed[0]["spans"][0]["trace_id"], TRACE);
    assert_eq!(listed[0]["code"], "OK");
    // To read is nothing to write down.
    assert!(lines(&howdah, "audit", "/ListInstances").is_empty());

    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    let instance = "projects/default/instances/orders";
    let database = format!("{instance}/databases/shop");
    for (method, effect, resource) in [
        (
            "howdah.v1.InstanceService/CreateInstance",
            "mutation",
            PROJECT,
        ),
        (
            "howdah.v1.DatabaseService/CreateDatabase",
            "mutation",
            instance,
        ),
        (
            "howdah.v1.DatabaseService/GetConnection",
            "secret",
            &database,
        ),
    ] {
        let audited = lines(&howdah, "audit", method);
        assert_eq!(audited.len(), 1, "{method}: {}", howdah.log());
        let line = &audited[0];
        for (field, value) in [
            ("effect", effect),
            ("method", method),
            ("resource", resource),
            ("principal", "anonymous"),
            ("result", "OK"),
        ] {
            assert_eq!(line[field], value, "{line}");
        }
        let peer = line["peer"].as_str().unwrap();
        assert!(peer.starts_with("127.0.0.1:"), "{line}");
        assert!(line["spans"][0]["trace_id"].is_string(), "{line}");
    }
}

/// Where something in front authenticates.
#[tokio::test(flavor = "multi_thread")]
async fn an_insecure_server_is_open_to_all_and_says_so() {
    let options = Options::external()
        .await
        .with("HOWDAH_LISTEN", "0.0.0.0:0")
        .with("HOWDAH_INSECURE", "true");
    let mut howdah = Howdah::new(options);
    howdah.endpoint_host("127.0.0.1");
    howdah.start("").await;
    call(&howdah).await;
    assert!(
        howdah
            .log()
            .contains("whoever reaches the port has this role"),
        "{}",
        howdah.log()
    );
}

/// A reader of standard error that stalls, as a terminal that was stopped or a collector
/// that hangs, while there is much to log.
#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() {
    let options = Options::external().await.with("HOWDAH_LOG_FILTER", "trace");
    let mut howdah = Howdah::new(options);
    let (unread, stderr) = std::io::pipe().unwrap();
    howdah.program(
        std::path::Path::new(env!("CARGO_BIN_EXE_howdah")),
        move |command| {
            command.stderr(stderr.try_clone().unwrap());
        },
    );
    howdah.start("").await;
    let lost = async || {
        let text = scrape(&howdah.admin_endpoint()).await;
        let line = text
            .lines()
            .find(|line| line.starts_with("howdah_log_lost_total"));
        line.is_some_and(|line| !line.ends_with(" 0"))
    };
    let filled = async {
        while !lost().await {
            for _ in 0..100 {
                call(&howdah).await;
            }
        }
    };
    timeout(2 * LIMIT, filled)
        .await
        .expect("calls are answered");
    assert!(howdah.stop().await.success());
    drop(unread);
}

/// The metrics, as Prometheus reads them.
async fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(LIMIT, stream.read_to_string(&mut answer)).await;
    read.expect("an answer").unwrap();
    answer
}

/// A collector of logs takes a line of JSON, and nothing else: not the banner, a panic, a notice
/// of PostgreSQL, nor the error that ends the program.
#[tokio::test(flavor = "multi_thread")]
async fn all_that_serve_writes_is_json_where_the_log_is() {
    let mut howdah = Howdah::new(Options::default());
    howdah
        .start("database.create.role.before_commit=1*panic->off")
        .await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    // Its migrations find what is there, of which PostgreSQL takes notice.
    howdah.stop().await;
    howdah.start("").await;
    // The directory is in use.
    let second = howdah.run(&["serve"], "");
    assert!(!second.status.success(), "{second:?}");
    howdah.stop().await;
    let log = howdah.log() + &String::from_utf8(second.stderr).unwrap();
    for line in log.lines() {
        let read = serde_json::from_str::<serde_json::Value>(line);
        assert!(read.is_ok_and(|value| value.is_object()), "{line}");
    }
    for part in [
        "howdah serves gRPC",
        "\"message\":\"panic\"",
        "DATA_DIR_IN_USE",
    ] {
        assert!(log.contains(part), "{part}");
    }
}
