//! The tasks of a connection's calls, and their caller.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use hyper::rt::Executor;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::api::{
    budget::{Caller, Refusals, Scope},
    unread::{Patience, attended},
};

/// Name of the limit on the time that a response stays unread, in metrics.
const UNREAD_TIME: &str = "unread_time";

/// Spawns the tasks of calls so that shutdown can wait for them. hyper drops a call whose stream
/// has ended, so calls end with their connection. A call whose response is not read is aborted.
#[derive(Clone, Debug)]
pub(super) struct Tracked {
    pub(super) tasks: TaskTracker,
    /// The calls of this connection.
    pub(super) calls: TaskTracker,
    pub(super) patience: Patience,
    pub(super) refusals: Refusals,
}

impl<F> Executor<F> for Tracked
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let refusals = self.refusals.clone();
        let given_up = move || refusals.count(UNREAD_TIME, Scope::Connection);
        let call = attended(future, self.patience, given_up);
        self.tasks.spawn(self.calls.track_future(call));
    }
}

/// A service that adds the caller to each request.
#[derive(Clone, Debug)]
pub(super) struct FromCaller<S> {
    pub(super) inner: S,
    pub(super) caller: Arc<Caller>,
}

impl<S, B> Service<Request<B>> for FromCaller<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(Arc::clone(&self.caller));
        self.inner.call(request)
    }
}
