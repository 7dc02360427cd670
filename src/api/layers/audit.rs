//! The log of who did what: mutations, secrets that were handed out, denials, in records of
//! target `audit`. What was done also stands in the metadata, written by the use cases; what
//! was refused is here alone.

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

/// Writes the calls of a service down.
#[derive(Clone, Copy, Debug)]
pub struct AuditLayer;

impl<S> Layer<S> for AuditLayer {
    type Service = Audit<S>;

    fn layer(&self, inner: S) -> Audit<S> {
        Audit(inner)
    }
}

/// A service whose calls are written down.
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

/// What will be written when the call ends, if it is to be written.
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

/// The name of the resource that a call is about, as soon as it is known.
#[derive(Clone, Debug, Default)]
struct Resource(Arc<OnceLock<String>>);

/// Names the resource of a call for its record, if it gets one.
pub(in crate::api) fn resource(extensions: &Extensions, name: &str) {
    if let Some(Resource(slot)) = extensions.get() {
        slot.get_or_init(|| cut(name).to_owned());
    }
}

/// Most bytes of a resource's name in the log. No name that can be read is longer.
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
        // Nothing has come of it, so that not every line is needed when there are many.
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
    /// The caller went away, but what it asked for may go on.
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

/// Writes down that a call was not let in, and for which resource, if that is known. Of many
/// in a second some are left out and counted.
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
