//! A Howdah that serves, whose metadata are about to go away and to come back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use howdah::pb::v1::{GetInstanceRequest, Instance, ListInstancesRequest};
use tonic::{Code, Status};

use super::{
    load::{Caller, INSTANCE},
    met::Met,
};
use crate::support::{
    health::{Health, Prober},
    howdah::{
        Howdah, LIMIT, Options, PROJECT, create_database, create_instance, instance_name, reason,
    },
    metadata_server::MetadataServer,
};

/// After health is true again, a new mutation and its operation take no longer.
const GOES_ON: Duration = Duration::from_secs(10);

pub(super) struct Serving {
    pub(super) metadata: MetadataServer,
    pub(super) howdah: Howdah,
    prober: Prober,
}

impl Serving {
    /// With an instance and a database `before` in it.
    pub(super) async fn start(metadata: MetadataServer) -> Self {
        let options = metadata.options();
        Self::with(metadata, options).await
    }

    pub(super) async fn with(metadata: MetadataServer, options: Options) -> Self {
        let howdah = Howdah::serve(options).await;
        howdah.instance(INSTANCE).await;
        howdah.database(INSTANCE, "before").await;
        let prober = Prober::of(&howdah).await;
        Self {
            metadata,
            howdah,
            prober,
        }
    }

    /// Waits until health says that not everything can be done.
    pub(super) async fn is_told(&self, since: Instant) {
        self.prober.becomes(Health::DOWN, since).await;
    }

    /// Waits until health says that the metadata are away, and sees what calls are told.
    pub(super) async fn is_away(&self, since: Instant) {
        self.prober.becomes(Health::DOWN, since).await;
        let began = Instant::now();
        let request = GetInstanceRequest {
            name: instance_name(INSTANCE),
        };
        let answer = self.howdah.instances().await.get_instance(request).await;
        unavailable(&answer.unwrap_err());
        let request = ListInstancesRequest {
            parent: PROJECT.into(),
            ..ListInstancesRequest::default()
        };
        let answer = self.howdah.instances().await.list_instances(request).await;
        unavailable(&answer.unwrap_err());
        let request = create_instance("never", Instance::default());
        let answer = self.howdah.instances().await.create_instance(request).await;
        unavailable(&answer.unwrap_err());
        let request = create_database(INSTANCE, "never");
        let answer = self.howdah.databases().await.create_database(request).await;
        unavailable(&answer.unwrap_err());
        assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    }

    /// Waits until health says that calls are served, and sees that they are and that
    /// work goes on.
    pub(super) async fn serves_again(&self, since: Instant) {
        self.prober.becomes(Health::UP, since).await;
        let began = Instant::now();
        let met = Arc::<Met>::default();
        let caller = Caller::single(self.howdah.channel().await, Arc::clone(&met));
        caller.create_database("after").await;
        assert_eq!(met.faults(), Vec::<String>::new());
        assert!(began.elapsed() < GOES_ON, "{:?}", began.elapsed());
        self.howdah.connection(INSTANCE, "before").await;
    }

    /// No new connection of Howdah's is let in and the old ones are ended, until the
    /// database is opened again.
    pub(super) async fn shut(&self) {
        let sql = "alter database metadata allow_connections false";
        self.metadata.administer(sql).await;
        self.metadata.terminate().await;
    }

    pub(super) async fn health(&self) -> Health {
        self.prober.ask().await
    }
}

/// What every call is told while the metadata are away.
#[track_caller]
pub(super) fn unavailable(status: &Status) {
    assert_eq!(
        (status.code(), reason(status).as_str()),
        (Code::Unavailable, "METADATA_UNAVAILABLE"),
        "{status:?}"
    );
}
