//! `grpc.health.v1.Health`, one status per service.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Request, Response, Status, async_trait};
use tonic_health::{
    ServingStatus,
    pb::{
        HealthCheckRequest, HealthCheckResponse,
        health_server::{Health, HealthServer},
    },
    server::{HealthReporter, HealthService, WatchStream},
};

use crate::app::shutting_down;

/// The whole server, in the protocol's terms.
const WHOLE: &str = "";

/// The health of each service and of the whole, told to probes.
#[derive(Clone, Debug)]
pub struct Reporter {
    reporter: HealthReporter,
    services: Vec<&'static str>,
    draining: CancellationToken,
}

impl Reporter {
    /// Nothing serves yet; `services` are full names as `howdah.v1.InstanceService`.
    pub async fn new(services: Vec<&'static str>) -> Self {
        let reporter = Self {
            reporter: HealthReporter::new(),
            services,
            draining: CancellationToken::new(),
        };
        reporter.set_all(ServingStatus::NotServing).await;
        reporter
    }

    /// The service to be served.
    #[must_use]
    pub fn service(&self) -> HealthServer<impl Health> {
        HealthServer::new(Service {
            inner: HealthService::from_health_reporter(self.reporter.clone()),
            draining: self.draining.clone(),
        })
    }

    /// Ends those who watch, once they were told the last change: else a shutdown
    /// would wait for them.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// From now on calls are served.
    pub async fn serving(&self) {
        self.set_all(ServingStatus::Serving).await;
    }

    /// From now on no new calls should come; the first thing of a shutdown.
    pub async fn not_serving(&self) {
        self.set_all(ServingStatus::NotServing).await;
    }

    async fn set_all(&self, status: ServingStatus) {
        for service in self.services.iter().copied().chain([WHOLE]) {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

struct Service {
    inner: HealthService,
    draining: CancellationToken,
}

#[async_trait]
impl Health for Service {
    type WatchStream = Statuses;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.inner.check(request).await
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Statuses>, Status> {
        let watched = self.inner.watch(request).await?;
        Ok(watched.map(|statuses| Statuses {
            statuses: Some(statuses),
            draining: Box::pin(self.draining.clone().cancelled_owned()),
        }))
    }
}

/// The statuses of a service as they change, until the server shuts down.
#[derive(Debug)]
struct Statuses {
    statuses: Option<WatchStream>,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stream for Statuses {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(statuses) = &mut this.statuses else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(next) = Pin::new(statuses).poll_next(context) {
            return Poll::Ready(next);
        }
        if this.draining.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        this.statuses = None;
        Poll::Ready(Some(Err(shutting_down().into())))
    }
}
