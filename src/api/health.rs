//! `grpc.health.v1.Health`, with a status per service.
//!
//! The services of a process all serve or none does. So there is a single status, and a stream
//! of it needs only a receiver.

use std::{
    convert::Infallible,
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt as _, stream};
use tokio::sync::watch;
use tonic::{
    Request, Response, Status, async_trait,
    body::Body,
    codegen::BoxFuture,
    server::{Grpc, NamedService},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer, SERVICE_NAME},
};
use tower::{Service, service_fn};

use crate::domain::{Error, Reason};

use super::small::SmallCodec;

/// The name that stands for the whole server in the protocol.
const WHOLE: &str = "";

/// Path of the method with many streams.
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Sets the status of the services. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reporter {
    status: watch::Sender<ServingStatus>,
    services: Arc<[&'static str]>,
}

impl Reporter {
    /// Starts with the status "not serving". `services` are full names such as
    /// `howdah.v1.InstanceService`.
    #[must_use]
    pub fn new(services: &[&'static str]) -> Self {
        Self {
            status: watch::Sender::new(ServingStatus::NotServing),
            services: services.into(),
        }
    }

    /// The service, to be added to the server.
    #[must_use]
    pub fn service(&self) -> Served {
        Served(HealthServer::new(self.clone()), self.clone())
    }

    /// Reports that calls are served from now on.
    pub fn serving(&self) {
        self.status.send_replace(ServingStatus::Serving);
    }

    /// Reports that no new calls should be sent from now on. The first step of a shutdown.
    pub fn not_serving(&self) {
        self.status.send_replace(ServingStatus::NotServing);
    }

    fn knows(&self, service: &str) -> bool {
        service == WHOLE || self.services.contains(&service)
    }

    fn statuses(&self, service: &str) -> Statuses {
        match self.knows(service) {
            true => Statuses::of(self.status.subscribe()),
            false => Statuses::unknown(),
        }
    }
}

/// The generated service with another `Watch`. Each client or proxy may have a stream of `Watch`
/// on each connection, and the generated codec needs 8 KiB for each of them.
#[derive(Clone, Debug)]
pub struct Served(HealthServer<Reporter>, Reporter);

impl NamedService for Served {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for Served {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != WATCH {
            return self.0.call(request);
        }
        let reporter = self.1.clone();
        let watch = service_fn(move |request: Request<HealthCheckRequest>| {
            let statuses = reporter.statuses(&request.get_ref().service);
            ready(Ok(Response::new(statuses)))
        });
        Box::pin(async move {
            let mut grpc = Grpc::new(SmallCodec::default());
            Ok(grpc.server_streaming(watch, request).await)
        })
    }
}

#[async_trait]
impl Health for Reporter {
    type WatchStream = Statuses;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.knows(&request.get_ref().service) {
            let error = Error::new(Reason::ServiceNotFound, "there is no such service");
            return Err(error.into());
        }
        Ok(Response::new(answer(*self.status.borrow())))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Statuses>, Status> {
        Ok(Response::new(self.statuses(&request.get_ref().service)))
    }
}

/// The present status of a service, and then each change.
pub struct Statuses(Pin<Box<dyn Stream<Item = ServingStatus> + Send>>);

impl Statuses {
    fn of(receiver: watch::Receiver<ServingStatus>) -> Self {
        let next = |(mut receiver, last): (watch::Receiver<ServingStatus>, _)| async move {
            let other = |status: &ServingStatus| Some(*status) != last;
            let status = *receiver.wait_for(other).await.ok()?;
            Some((status, (receiver, Some(status))))
        };
        Self(Box::pin(stream::unfold((receiver, None), next)))
    }

    /// The stream for an unknown service. By the protocol it reports that, and stays open.
    /// Nothing follows, because the services of a process do not change.
    fn unknown() -> Self {
        let first = stream::iter([ServingStatus::ServiceUnknown]);
        Self(Box::pin(first.chain(stream::pending())))
    }
}

impl Stream for Statuses {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.0.as_mut().poll_next(context);
        next.map(|status| status.map(|status| Ok(answer(status))))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
