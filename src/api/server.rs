//! Puts services and layers together.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use opentelemetry::metrics::Meter;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::{BoxError, Layer as _, Service};

use crate::{auth::Policy, domain::Result};

pub use super::layers::{deadline::Caps, started::Started};

use super::{
    layers::{
        audit::AuditLayer, authenticate::Authenticate, authorise::Authorise,
        deadline::DeadlineLayer, details::DetailsLayer, drain::DrainLayer, gate::GateLayer,
        measure::MeasureLayer, panics::PanicLayer, rate::Rate, shed::ShedLayer, trace::TraceLayer,
    },
    method::Methods,
};

/// Bounds on calls.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls that may wait for their answer at once. More are refused: each holds
    /// memory, and beyond some point they only wait for database connections.
    pub in_flight: usize,
    /// Calls per second of each principal; 0 for no bound.
    pub rate: u32,
    /// Calls of a principal at once after a pause; at least `rate`.
    pub burst: u32,
    /// Longest times until answers begin.
    pub deadlines: Caps,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight: 1024,
            rate: 0,
            burst: 0,
            deadlines: Caps::default(),
        }
    }
}

/// The services behind all layers, ready for a listener. Before `started` is set only
/// public methods are served; when `draining` is cancelled their streams end.
///
/// # Errors
/// INTERNAL when the descriptors cannot be read.
pub fn assemble<B>(
    routes: Routes,
    policy: Policy,
    limits: &Limits,
    started: &Started,
    draining: CancellationToken,
    meter: &Meter,
) -> Result<
    impl Service<
        Request<B>,
        Response = Response<impl Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static,
>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let methods = Arc::new(Methods::load()?);
    let layers = (
        TraceLayer::new(methods),
        MeasureLayer::new(meter),
        DetailsLayer,
        PanicLayer,
        ShedLayer::new(limits.in_flight),
        DeadlineLayer(limits.deadlines),
        GateLayer(Authenticate { policy }),
        GateLayer(Rate::new(limits.rate, limits.burst)),
        GateLayer(Authorise { policy }),
        GateLayer(started.clone()),
        AuditLayer,
        DrainLayer(draining),
    );
    Ok(layers.layer(routes.prepare()))
}
