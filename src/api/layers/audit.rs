//! The audit log: lines of target `audit` for mutations, for secrets that were handed out, and
//! for refusals. The use cases also record mutations and secrets in the metadata. Refusals are
//! only in this log.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use http::{Extensions, Request};
use tonic::Code;
use tower::{Layer, Service};

use crate::{
    api::{
        budget::Caller,
        method::{Effect, Method},
        status::code_name,
    },
    domain::{Reason, principal::Principal},
    telemetry::flood,
};

use super::{
    Call, Response,
    answer::{Answered, OnAnswer},
    code_in, method_of,
};

/// Logs the calls of a service.
#[derive(Clone, Copy, Debug)]
pub struct AuditLayer;

impl<S> Layer<S> for AuditLayer {
    type Service = Audit<S>;

    fn layer(&self, inner: S) -> Audit<S> {
        Audit(inner)
    }
}

/// A service whose calls are logged.
#[derive(Clone, Debug)]
pub struct Audit<S>(S);

impl<S, B> Service<Request<B>> for Audit<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answered<S::Future, Entry>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let entry = Entry(Record::of(&mut request));
        Answered::new(self.0.call(request), entry)
    }
}

/// The line to write when the call ends; none if it is not logged.
#[derive(Debug)]
pub struct Entry(Option<Record>);

#[derive(Debug)]
struct Record {
    method: Arc<Method>,
    principal: Principal,
    caller: Option<Arc<Caller>>,
    resource: Resource,
    written: bool,
}

/// Name of the resource of a call. It is set as soon as it is known.
#[derive(Clone, Debug, Default)]
struct Resource(Arc<OnceLock<String>>);

/// Sets the name of a call's resource for its log line.
pub(in crate::api) fn resource(extensions: &Extensions, name: &str) {
    if let Some(Resource(slot)) = extensions.get() {
        slot.get_or_init(|| cut(name).to_owned());
    }
}

/// Most bytes of a resource's name in the log. A valid name is shorter.
const MOST: usize = 300;

fn cut(name: &str) -> &str {
    name.get(..name.floor_char_boundary(MOST)).unwrap_or(name)
}

impl Record {
    fn of<B>(request: &mut Request<B>) -> Option<Self> {
        let recorded = |method: &&Arc<Method>| method.effect != Effect::Read;
        let method = Arc::clone(method_of(request).filter(recorded)?);
        let resource = Resource::default();
        request.extensions_mut().insert(resource.clone());
        let extensions = request.extensions();
        let principal = extensions.get::<Principal>().cloned();
        Some(Self {
            method,
            principal: principal.unwrap_or(Principal::Anonymous),
            caller: extensions.get::<Arc<Caller>>().cloned(),
            resource,
            written: false,
        })
    }

    fn write(&mut self, result: &'static str) {
        self.written = true;
        // The call has had no effect, so some lines may be left out if there are many.
        let failed = !matches!(result, "OK" | "ABANDONED");
        if failed && !flood::admits("call was made", result) {
            return;
        }
        let effect = match self.method.effect {
            Effect::Secret => "secret",
            Effect::Mutation | Effect::Read => "mutation",
        };
        let address = self.caller.as_ref().map(|caller| caller.peer.address);
        tracing::info!(
            target: "audit",
            effect,
            method = &*self.method.name,
            principal = %self.principal,
            peer = address.map(tracing::field::display),
            resource = self.resource.0.get(),
            result,
            "call was made",
        );
    }
}

impl Drop for Record {
    /// The caller has gone away, but the work of the call may continue.
    fn drop(&mut self) {
        if !self.written {
            self.write("ABANDONED");
        }
    }
}

impl OnAnswer<Result<Response, Infallible>> for Entry {
    type Response = Response;

    fn answer(self, output: Result<Response, Infallible>) -> Response {
        let Ok(response) = output;
        if let Some(mut record) = self.0 {
            let code = code_in(response.headers()).unwrap_or(Code::Ok);
            record.write(code_name(code));
        }
        response
    }
}

/// Logs that a call was refused, with its resource if that is known. If there are many in a
/// second, some are left out and counted.
pub(in crate::api) fn denied(
    extensions: &Extensions,
    principal: &Principal,
    reason: Reason,
    resource: Option<&str>,
) {
    if !flood::admits("call was denied", reason.as_str()) {
        return;
    }
    let method = extensions.get::<Call>().map(|call| &*call.method.name);
    let address = extensions
        .get::<Arc<Caller>>()
        .map(|caller| caller.peer.address);
    tracing::info!(
        target: "audit",
        effect = "denial",
        method,
        principal = %principal,
        peer = address.map(tracing::field::display),
        resource = resource.map(cut),
        result = reason.as_str(),
        "call was denied",
    );
}
