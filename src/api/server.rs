//! Combines services and layers.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use opentelemetry::metrics::Meter;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::{BoxError, Layer as _, Service};

use crate::{auth::Policy, domain::Result};

pub use super::{
    budget::{Limit, Permits},
    layers::{deadline::Caps, serving::ServingState},
};

use super::{
    budget::Budgets,
    layers::{
        admit::AdmitLayer,
        audit::AuditLayer,
        authenticate::Authenticate,
        authorise::Authorise,
        deadline::DeadlineLayer,
        details::DetailsLayer,
        end::EndLayer,
        gate::GateLayer,
        measure::MeasureLayer,
        panics::PanicLayer,
        protocol::ProtocolLayer,
        rate::Rate,
        receive::{Bounds, ReceiveLayer},
        send::SendLayer,
        trace::TraceLayer,
    },
    listener,
    method::Methods,
};

/// Limits on calls.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Permits for concurrent calls, in total and per caller.
    pub permits: Permits,
    /// Most bytes of a request's message.
    pub message_bytes: usize,
    /// Calls per second of each caller; 0 for no limit.
    pub rate: u32,
    /// Calls that a caller may send at once after a pause; at least `rate`.
    pub burst: u32,
    /// Longest times until responses begin.
    pub deadlines: Caps,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            permits: Permits::default(),
            message_bytes: 4 * 1024 * 1024,
            rate: 0,
            burst: 0,
            deadlines: Caps::default(),
        }
    }
}

/// Puts all layers around the services. Only public methods are served until `started` is set.
/// When `draining` is cancelled, public streams end.
///
/// # Errors
/// INTERNAL when the descriptors cannot be read.
pub fn assemble<B>(
    routes: Routes,
    policy: Policy,
    limits: &Limits,
    started: &ServingState,
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
    let budgets = Arc::new(Budgets::new(limits.permits, meter));
    let layers = (
        TraceLayer::new(methods),
        MeasureLayer::new(meter),
        DetailsLayer,
        SendLayer(Arc::clone(&budgets)),
        PanicLayer,
        DeadlineLayer(limits.deadlines),
        ProtocolLayer,
        GateLayer(Authenticate {
            policy: policy.clone(),
        }),
        GateLayer(Rate::new(limits.rate, limits.burst)),
        GateLayer(Authorise { policy }),
        GateLayer(started.clone()),
        EndLayer(draining),
        ReceiveLayer {
            budgets: Arc::clone(&budgets),
            bounds: Bounds {
                time: limits.deadlines.request,
                message: limits.message_bytes,
                window: listener::STREAM_WINDOW as usize,
            },
        },
        AdmitLayer(budgets),
        AuditLayer,
    );
    Ok(layers.layer(routes.prepare()))
}
