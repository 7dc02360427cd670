//! `grpc.health.v1.Health`, one status per service.

use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::{HealthReporter, HealthService},
};

/// The whole server, in the protocol's terms.
const WHOLE: &str = "";

/// The health of each service and of the whole, told to probes.
#[derive(Clone, Debug)]
pub struct Reporter {
    reporter: HealthReporter,
    services: Vec<&'static str>,
}

impl Reporter {
    /// Nothing serves yet; `services` are full names as `howdah.v1.InstanceService`.
    pub async fn new(services: Vec<&'static str>) -> Self {
        let reporter = Self {
            reporter: HealthReporter::new(),
            services,
        };
        reporter.set_all(ServingStatus::NotServing).await;
        reporter
    }

    /// The service to be served.
    #[must_use]
    pub fn service(&self) -> HealthServer<impl Health> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
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
