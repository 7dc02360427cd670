//! The calls of a connection: their tasks, and whose they are.

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

/// What metrics call the bound on the time that an answer stays unread.
const UNREAD_TIME: &str = "unread_time";

/// Runs the tasks of calls where a shutdown sees them. They end with their connection:
/// hyper drops a call whose stream is gone. One whose answer is not read is given up.
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

/// A service whose requests name their caller.
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
