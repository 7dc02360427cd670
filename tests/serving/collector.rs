//! A collector of traces, which the program exports to.

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::ResourceSpans,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig},
};

/// A collector that serves until it is dropped.
pub(super) struct Collector {
    pub(super) port: u16,
    /// What was exported.
    pub(super) received: mpsc::UnboundedReceiver<ResourceSpans>,
    _serving: JoinSet<Result<(), tonic::transport::Error>>,
}

impl Collector {
    /// With TLS if it has an identity.
    pub(super) async fn start(identity: Option<Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, received) = mpsc::unbounded_channel();
        let mut server = Server::builder();
        if let Some(identity) = identity {
            let tls = ServerTlsConfig::new().identity(identity);
            server = server.tls_config(tls).unwrap();
        }
        let service = TraceServiceServer::new(Passing(sender));
        let connections = TcpListenerStream::new(listener);
        let mut serving = JoinSet::new();
        serving.spawn(server.add_service(service).serve_with_incoming(connections));
        Self {
            port,
            received,
            _serving: serving,
        }
    }
}

/// Passes on what it gets.
struct Passing(mpsc::UnboundedSender<ResourceSpans>);

#[tonic::async_trait]
impl TraceService for Passing {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for spans in request.into_inner().resource_spans {
            self.0.send(spans).unwrap();
        }
        Ok(Response::new(Default::default()))
    }
}
