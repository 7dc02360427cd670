//! An edge that listens on a free port, and raw clients for it.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use howdah::{
    api::{
        health,
        listener::{BindAddress, Listener, Settings},
        reflection,
        server::{Limits, ServingState, assemble},
    },
    auth::Policy,
    domain::access::Role,
    pb::encoded::change_stream_service_server::ChangeStreamServiceServer,
    pb::google::longrunning::{
        operations_client::OperationsClient, operations_server::OperationsServer,
    },
    pb::v1::{
        change_stream_service_client::ChangeStreamServiceClient,
        database_service_client::DatabaseServiceClient,
        database_service_server::DatabaseServiceServer,
    },
    telemetry::metrics::Metrics,
};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_sdk::Resource;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes};

use super::service::Fickle;

/// Longest wait for anything.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

/// How to set up an edge.
pub(crate) struct Setup {
    pub(crate) address: BindAddress,
    pub(crate) settings: Settings,
    pub(crate) limits: Limits,
    pub(crate) anonymous: bool,
    pub(crate) started: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            address: BindAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))),
            settings: Settings::default(),
            limits: Limits::default(),
            anonymous: true,
            started: true,
        }
    }
}

/// A running edge; ends when it is dropped.
pub(crate) struct Edge {
    address: BindAddress,
    pub(crate) drain: CancellationToken,
    pub(crate) started: ServingState,
    pub(crate) service: Fickle,
    pub(crate) health: health::Reporter,
    pub(crate) metrics: Metrics,
    tasks: JoinSet<()>,
}

impl Edge {
    pub(crate) async fn start(setup: Setup) -> Self {
        let service = Fickle::default();
        let health = health::Reporter::new(&["howdah.v1.DatabaseService"]);
        let metrics = Metrics::new(Resource::builder_empty().build(), None).unwrap();
        let meter = metrics.meter();
        let listener = Listener::bind(&setup.address, setup.settings, &meter)
            .await
            .unwrap();
        let routes = Routes::new(DatabaseServiceServer::new(service.clone()))
            .add_service(ChangeStreamServiceServer::new(service.clone()))
            .add_service(OperationsServer::new(service.clone()))
            .add_service(health.service());
        let policy = Policy::built_in(setup.anonymous.then_some(Role::Admin));
        let routes = reflection::add_to(routes).unwrap();
        let (drain, started) = (CancellationToken::new(), ServingState::default());
        if setup.started {
            started.set(true);
        }
        let stack = assemble(
            routes,
            policy,
            &setup.limits,
            &started,
            drain.clone(),
            &meter,
        )
        .unwrap();
        let address = listener.local_addr().clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(listener.run(stack, drain.clone()));
        Self {
            address,
            drain,
            started,
            service,
            health,
            metrics,
            tasks,
        }
    }

    pub(crate) fn port(&self) -> SocketAddr {
        match &self.address {
            BindAddress::Tcp(address) => *address,
            BindAddress::Unix(path) => panic!("no port at {path:?}"),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        match &self.address {
            BindAddress::Unix(path) => path.clone(),
            BindAddress::Tcp(address) => panic!("no path at {address}"),
        }
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw::connect(self.port()).await
    }

    /// A client with another address of this machine.
    pub(crate) async fn connect_from(&self, address: [u8; 4]) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        Raw::over(socket.connect(self.port()).await.unwrap()).await
    }

    /// Waits until the listener's `run` is over.
    pub(crate) async fn ended(&mut self) {
        timeout(BOUND, self.tasks.join_next())
            .await
            .expect("the listener ends")
            .unwrap()
            .unwrap();
    }

    /// Waits until the scrape has a line with all of these parts.
    pub(crate) async fn measured(&self, parts: &[&str]) {
        let found = async {
            loop {
                let text = scrape(&self.metrics);
                if text
                    .lines()
                    .any(|line| parts.iter().all(|part| line.contains(part)))
                {
                    return;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(BOUND, found).await;
        assert!(waited.is_ok(), "{parts:?} in {}", scrape(&self.metrics));
    }
}

fn scrape(metrics: &Metrics) -> String {
    let encoder = prometheus::TextEncoder::new();
    encoder
        .encode_to_string(&metrics.registry().gather())
        .unwrap()
}

/// A client without any timeouts, retries or limits of its own.
pub(crate) struct Raw {
    pub(crate) sender: SendRequest<Body>,
    /// Ends with the connection.
    pub(crate) connection: JoinSet<hyper::Result<()>>,
    received: Arc<Mutex<Vec<u8>>>,
}

/// What the generated clients of a [`Raw`] speak through.
#[derive(Clone)]
pub(crate) struct Channel(SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        // Else the second part of a request waits for the first one's acknowledgement.
        stream.set_nodelay(true).unwrap();
        Self::over(stream).await
    }

    pub(crate) async fn over(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let received = Arc::default();
        let recorder = Recorder {
            io,
            received: Arc::clone(&received),
        };
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(recorder))
            .await
            .unwrap();
        Self {
            received,
            ..Self::of(sender, connection)
        }
    }

    pub(crate) fn of(
        sender: SendRequest<Body>,
        connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
    ) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Self {
            sender,
            connection: tasks,
            received: Arc::default(),
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel(self.sender.clone())
    }

    pub(crate) fn origin() -> http::Uri {
        http::Uri::from_static("http://localhost")
    }

    pub(crate) fn databases(&self) -> DatabaseServiceClient<Channel> {
        DatabaseServiceClient::with_origin(self.channel(), Self::origin())
    }

    pub(crate) fn streams(&self) -> ChangeStreamServiceClient<Channel> {
        ChangeStreamServiceClient::with_origin(self.channel(), Self::origin())
    }

    pub(super) fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::with_origin(self.channel(), Self::origin())
    }

    /// Whether a GOAWAY frame came (type 7, RFC 9113, section 6.8).
    pub(crate) fn told_to_go(&self) -> bool {
        let bytes = self.received.lock().unwrap();
        let mut rest = bytes.as_slice();
        while let [a, b, c, kind, _, _, _, _, _, body @ ..] = rest {
            if *kind == 7 {
                return true;
            }
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            rest = body.get(length..).unwrap_or_default();
        }
        false
    }

    /// Waits until the connection is over.
    pub(crate) async fn ended(&mut self) {
        timeout(BOUND, self.connection.join_next())
            .await
            .expect("the connection ends");
    }
}

/// Keeps what was read.
struct Recorder<I> {
    io: I,
    received: Arc<Mutex<Vec<u8>>>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Recorder<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let fresh = &buffer.filled()[before..];
        self.received.lock().unwrap().extend_from_slice(fresh);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Recorder<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
