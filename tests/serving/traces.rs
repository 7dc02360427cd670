//! The spans that leave the program.

use std::collections::BTreeSet;

use howdah::pb::v1::Database;
use opentelemetry_proto::tonic::{
    common::v1::any_value::Value,
    trace::v1::{Span, status::StatusCode},
};
use tonic::Request;

use super::collector::Collector;
use crate::support::howdah::{Howdah, Options, create_database, failed};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CREATE: &str = "howdah.v1.DatabaseService/CreateDatabase";

/// The text of an attribute.
fn attribute<'a>(span: &'a Span, name: &str) -> Option<&'a str> {
    let found = span.attributes.iter().find(|entry| entry.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        other => panic!("{name} is {other:?}"),
    }
}

fn failed_with(span: &Span) -> Option<&str> {
    let error = span.status.as_ref().map(|status| status.code());
    assert_eq!(
        error == Some(StatusCode::Error),
        attribute(span, "error.type").is_some(),
        "{span:?}"
    );
    attribute(span, "error.type")
}

/// An operation that fails, a call that fails, and calls that do not, with a filter of the
/// log that leaves most lines out.
#[tokio::test(flavor = "multi_thread")]
async fn spans_say_what_failed_and_where_it_came_from() {
    let mut collector = Collector::start(None).await;
    let port = collector.port;
    let options = Options::external()
        .await
        .with("HOWDAH_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"))
        .with("HOWDAH_LOG_FILTER", "error");
    let mut howdah = Howdah::serve(options).await;
    howdah.instance("orders").await;

    let mut request = create_database("orders", "shop");
    request.database = Some(Database {
        encoding: "EBCDIC".into(),
        ..Database::default()
    });
    let mut request = Request::new(request);
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01").parse().unwrap();
    request.metadata_mut().insert("traceparent", parent);
    let accepted = howdah.databases().await.create_database(request).await;
    failed(&howdah.wait(accepted.unwrap().get_ref()).await);
    let mut databases = tonic::client::Grpc::new(howdah.channel().await);
    databases.ready().await.unwrap();
    let unknown = "/howdah.v1.DatabaseService/Unknown".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<Database, Database>::default();
    let status = databases
        .unary(Request::new(Database::default()), unknown, codec)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    // What it still holds is sent at the end.
    assert!(howdah.stop().await.success());
    let mut spans = Vec::new();
    while let Ok(received) = collector.received.try_recv() {
        let scopes = received.scope_spans.into_iter();
        spans.extend(scopes.flat_map(|scope| scope.spans));
    }

    let named = |name: &str| {
        spans
            .iter()
            .filter(|span| span.name == name)
            .collect::<Vec<_>>()
    };
    let calls = named(CREATE);
    let [call] = calls[..] else {
        panic!("{calls:?}");
    };
    assert_eq!(hex(&call.trace_id), TRACE);
    assert_eq!(failed_with(call), None);
    let tries = named("database.create");
    assert!(!tries.is_empty());
    for span in &tries {
        assert_ne!(span.trace_id, call.trace_id);
        let [link] = &span.links[..] else {
            panic!("{span:?}");
        };
        assert_eq!(
            (&link.trace_id, &link.span_id),
            (&call.trace_id, &call.span_id)
        );
    }
    let failures: Vec<_> = tries.iter().filter_map(|span| failed_with(span)).collect();
    assert_eq!(failures, ["POSTGRESQL_REFUSED"]);
    let unknown = named("_OTHER");
    assert_eq!(
        failed_with(unknown[0]),
        Some("UNIMPLEMENTED"),
        "{unknown:?}"
    );

    let attributes = spans.iter().flat_map(|span| &span.attributes);
    let names: BTreeSet<_> = attributes.map(|entry| entry.key.as_str()).collect();
    let noise = |name: &&&str| {
        ["thread.", "code.", "busy_ns", "idle_ns", "target"]
            .iter()
            .any(|noise| name.starts_with(noise))
    };
    let noise: Vec<_> = names.iter().filter(noise).collect();
    assert!(noise.is_empty(), "{noise:?}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
