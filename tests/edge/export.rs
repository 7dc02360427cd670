//! Traces and metrics reach a collector, by OTLP.

use std::time::Duration;

use howdah::{
    pb::v1::GetDatabaseRequest,
    telemetry::{self, Settings, sql},
};
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    trace::v1::{Span, span::SpanKind},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::harness::{BOUND, Edge, Setup};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Keeps what it is sent.
#[derive(Clone)]
struct Collector {
    spans: mpsc::UnboundedSender<Span>,
    metrics: mpsc::UnboundedSender<String>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            for span in resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans)
            {
                self.spans.send(span).unwrap();
            }
        }
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for resource in request.into_inner().resource_metrics {
            for metric in resource
                .scope_metrics
                .into_iter()
                .flat_map(|scope| scope.metrics)
            {
                self.metrics.send(metric.name).unwrap();
            }
        }
        Ok(Response::new(Default::default()))
    }
}

/// The first that fits, of all that come.
async fn find<T>(receiver: &mut mpsc::UnboundedReceiver<T>, fits: impl Fn(&T) -> bool) -> T {
    let search = async {
        loop {
            let item = receiver.recv().await.expect("the collector lives");
            if fits(&item) {
                return item;
            }
        }
    };
    timeout(BOUND, search).await.expect("it is exported")
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_exported_with_the_callers_trace() {
    let (spans, mut seen_spans) = mpsc::unbounded_channel();
    let (metrics, mut seen_metrics) = mpsc::unbounded_channel();
    let collector = Collector { spans, metrics };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(
        Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .add_service(MetricsServiceServer::new(collector))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let telemetry = telemetry::init(&Settings {
        log_filter: "error".to_owned(),
        otlp_endpoint: Some(endpoint),
        ..Settings::default()
    })
    .unwrap();

    let edge = Edge::start(Setup::default()).await;
    let client = edge.connect().await;
    let mut request = Request::new(GetDatabaseRequest {
        name: "shop".to_owned(),
    });
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01").parse().unwrap();
    request.metadata_mut().insert("traceparent", parent);
    client.databases().get_database(request).await.unwrap();
    let away = async { Err::<(), _>(sqlx::Error::PoolTimedOut) };
    sql::measure("instances.get", away).await.unwrap_err();
    let encoder = prometheus::TextEncoder::new();
    let scrape = encoder
        .encode_to_string(&telemetry.registry().gather())
        .unwrap();
    edge.measured(&["GetDatabase", "rpc_response_status_code=\"OK\""])
        .await;

    telemetry.shutdown(Duration::from_secs(10)).await;
    let trace = hex(TRACE);
    let span = find(&mut seen_spans, |span| span.trace_id == trace).await;
    assert_eq!(span.name, "howdah.v1.DatabaseService/GetDatabase");
    assert_eq!(span.parent_span_id, hex("00f067aa0ba902b7"));
    assert_eq!(span.kind, SpanKind::Server as i32);
    let code = span
        .attributes
        .iter()
        .find(|entry| entry.key == "rpc.response.status_code");
    assert!(format!("{code:?}").contains("\"OK\""), "{code:?}");
    find(&mut seen_metrics, |name| {
        name == "db.client.operation.duration"
    })
    .await;
    let line = scrape
        .lines()
        .find(|line| line.starts_with("db_client_operation_duration_seconds_count"))
        .expect("the SQL call is in the scrape");
    for part in ["\"instances.get\"", "\"pool_timed_out\"", "\"postgresql\""] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}
