//! Builds the listener, its services and their limits from the configuration.

use std::time::Duration;

use opentelemetry::metrics::Meter;
use tonic::{
    codec::CompressionEncoding::{Gzip, Zstd},
    service::Routes,
};

use crate::{
    api::{
        audit::Audit,
        change_streams::ChangeStreams,
        databases::Databases,
        health::Reporter,
        instances::Instances,
        listener::{BindAddress, ClientAuth, Listener, Settings, Tls},
        operations::Operations,
        reflection,
        server::{Caps, Limit, Limits, Permits},
    },
    app::App,
    auth::Policy,
    config::{ClientCertificates, Config, ListenAddress},
    domain::Result,
    pb::{
        encoded::change_stream_service_server::ChangeStreamServiceServer,
        google::longrunning::operations_server::OperationsServer,
        v1::{
            audit_service_server::AuditServiceServer,
            database_service_server::DatabaseServiceServer,
            instance_service_server::InstanceServiceServer,
        },
    },
};

/// Longest call by design: WaitOperation, plus some time for its response.
const LONGEST_WAIT: Duration = Duration::from_secs(310);

/// Names of the services in health checks.
pub(super) const SERVICES: [&str; 5] = [
    "howdah.v1.InstanceService",
    "howdah.v1.DatabaseService",
    "howdah.v1.ChangeStreamService",
    "howdah.v1.AuditService",
    "google.longrunning.Operations",
];

/// All services, without the layers. The layers decompress requests and decide which responses
/// may be compressed.
pub(super) fn routes(app: &App, health: &Reporter, max_message: usize) -> Result<Routes> {
    let instances = InstanceServiceServer::new(Instances {
        instances: app.instances.clone(),
        engines: app.engines.clone(),
        logs: app.logs.clone(),
    });
    let databases = DatabaseServiceServer::new(Databases(app.databases.clone()));
    let streams = ChangeStreamServiceServer::new(ChangeStreams {
        durable: app.change_streams.clone(),
        subscriptions: app.subscriptions.clone(),
    });
    let audit = AuditServiceServer::new(Audit(app.audit.clone()));
    let operations = OperationsServer::new(Operations(app.operations.clone()));
    macro_rules! set {
        ($service:ident) => {
            $service
                .max_decoding_message_size(max_message)
                .send_compressed(Zstd)
                .send_compressed(Gzip)
        };
    }
    let routes = Routes::new(set!(instances))
        .add_service(set!(databases))
        .add_service(set!(streams))
        .add_service(set!(audit))
        .add_service(set!(operations))
        .add_service(health.service());
    reflection::add_to(routes)
}

/// Binds the listener of the API.
pub(super) async fn listener(config: &Config, meter: &Meter) -> Result<Listener> {
    let address = match &config.listen {
        ListenAddress::Tcp(address) => BindAddress::Tcp(*address),
        ListenAddress::Unix(path) => BindAddress::Unix(path.clone()),
    };
    Listener::bind(&address, settings(config), meter).await
}

fn settings(config: &Config) -> Settings {
    let server = &config.server;
    let max_age = Some(server.connection_max_age).filter(|age| !age.is_zero());
    Settings {
        tls: tls(config),
        max_connections: server.max_connections,
        max_connections_per_address: connections(config).each,
        proxies: server.proxies.clone(),
        handshake_timeout: config.tls.handshake_timeout,
        certificate_grace: config.tls.certificate_grace,
        max_age,
        age_grace: Some(server.connection_age_grace).filter(|grace| !grace.is_zero()),
        write_timeout: server.write_timeout,
        stream_write_timeout: server.stream_write_timeout,
        keepalive_interval: server.keepalive_interval,
        keepalive_timeout: server.keepalive_timeout,
        max_concurrent_streams: server.max_concurrent_streams,
        drain_timeout: server.drain_timeout,
        ..Settings::default()
    }
}

fn tls(config: &Config) -> Option<Tls> {
    let (certificate, key) = (config.tls.certificate.clone()?, config.tls.key.clone()?);
    let client_auth = match config.tls.client_certificates {
        ClientCertificates::Required => ClientAuth::Required,
        ClientCertificates::Off | ClientCertificates::Optional => ClientAuth::Optional,
    };
    Some(Tls {
        certificate,
        key,
        client_ca: config.tls.client_ca.clone(),
        client_auth,
    })
}

/// The policy: which principals have which permissions.
pub(super) fn policy(config: &Config) -> Policy {
    let (bindings, anonymous) = (config.bindings(), config.anonymous_role());
    match bindings.is_empty() {
        true => Policy::built_in(anonymous),
        false => Policy::of(bindings, anonymous),
    }
}

/// Limits on calls.
pub(super) fn limits(config: &Config) -> Limits {
    let server = &config.server;
    Limits {
        permits: Permits {
            calls: limit(server.max_in_flight, server.max_in_flight_per_caller),
            waits: limit(server.max_waits, server.max_waits_per_caller),
            streams: limit(server.max_streams, server.max_streams_per_caller),
            // Clients that watch the health have one stream per connection.
            probes: connections(config),
            unfinished_bytes: server.max_unfinished_bytes,
            unread_bytes: server.max_unread_bytes,
        },
        message_bytes: server.max_message_bytes,
        rate: server.rate_limit_per_second,
        burst: server.rate_limit_per_second.saturating_mul(2),
        deadlines: Caps {
            usual: server.request_timeout,
            waiting: LONGEST_WAIT,
            request: server.arrival_timeout,
        },
    }
}

fn connections(config: &Config) -> Limit {
    let server = &config.server;
    limit(server.max_connections, server.max_connections_per_address)
}

/// A limit of `all`, with `each` per caller; 0 stands for half of `all`.
fn limit(all: usize, each: usize) -> Limit {
    match each {
        0 => Limit::of(all),
        each => Limit { all, each },
    }
}
