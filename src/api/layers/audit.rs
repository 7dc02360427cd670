//! Who did what: mutations, secrets that were handed out, denials.
//!
//! Written as log records of target `audit`; the caller's resource stands in the
//! operation's own record.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let entry = Entry(Record::of(&request));
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
    written: bool,
}

impl Record {
    fn of<B>(request: &Request<B>) -> Option<Self> {
        let method = method_of(request).filter(|method| method.effect != Effect::Read)?;
        let extensions = request.extensions();
        let principal = extensions.get::<Principal>().cloned();
        Some(Self {
            method: Arc::clone(method),
            principal: principal.unwrap_or(Principal::Anonymous),
            caller: extensions.get::<Arc<Caller>>().cloned(),
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

/// Writes down that a call was not let in. Of many in a second some are left out and counted.
pub(super) fn denied<B>(request: &Request<B>, principal: &Principal, reason: Reason) {
    if !flood::admits("call was denied", reason.as_str()) {
        return;
    }
    let extensions = request.extensions();
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
        result = reason.as_str(),
        "call was denied",
    );
}
