//! Waiting for an operation.

use std::time::{Duration, Instant};

use prost::Message;
use prost_types::Any;
use tonic::{Request, transport::Channel};

use super::{Client, Error, Failure, Result, Retries};
use crate::pb::{
    google::longrunning::{
        Operation, WaitOperationRequest, operation, operations_client::OperationsClient,
    },
    v1::OperationMetadata,
};

/// How much longer than the requested poll a response may take.
const GRACE: Duration = Duration::from_secs(10);

/// How to wait for an operation.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// Longest wait in total; none for no limit.
    pub timeout: Option<Duration>,
    /// How long the server may hold one poll. Progress is reported after each poll.
    pub poll: Duration,
}

impl Default for Wait {
    fn default() -> Self {
        Self {
            timeout: None,
            poll: Duration::from_secs(30),
        }
    }
}

impl Client {
    /// Waits until an operation has ended, even across restarts of the server. Calls
    /// `on_progress` with the operation's metadata after each poll.
    ///
    /// # Errors
    /// [`Error::Operation`] when it failed, [`Error::NotDone`] when the timeout has passed.
    pub async fn wait(
        &self,
        name: &str,
        wait: Wait,
        mut on_progress: impl FnMut(&OperationMetadata),
    ) -> Result<Operation> {
        let end = wait.timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let poll = left.map_or(wait.poll, |left| left.min(wait.poll));
            let operation = self.poll(name, poll).await?;
            if let Some(metadata) = &operation.metadata {
                on_progress(&unpack(metadata, "howdah.v1.OperationMetadata")?);
            }
            if operation.done {
                return finished(operation);
            }
            if left.is_some_and(|left| left <= poll) {
                return Err(Error::NotDone { name: name.into() });
            }
        }
    }

    async fn poll(&self, name: &str, timeout: Duration) -> Result<Operation> {
        let message = WaitOperationRequest {
            name: name.to_owned(),
            timeout: prost_types::Duration::try_from(timeout).ok(),
        };
        let call = |channel: Channel| {
            let mut request = Request::new(message.clone());
            request.set_timeout(timeout + GRACE);
            async move { OperationsClient::new(channel).wait_operation(request).await }
        };
        self.retried(call, Retries::Restart).await
    }
}

/// The finished operation, or its error.
fn finished(mut operation: Operation) -> Result<Operation> {
    match operation.result.take() {
        Some(operation::Result::Error(error)) => Err(Error::Operation {
            name: operation.name,
            failure: Box::new(Failure::of_operation(error)),
        }),
        result => Ok(Operation {
            result,
            ..operation
        }),
    }
}

/// Unpacks a message of the type with that full name.
///
/// # Errors
/// [`Error::Unexpected`] for another type, or for bytes that cannot be decoded.
pub fn unpack<M: Message + Default>(any: &Any, full_name: &str) -> Result<M> {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    if name != full_name {
        return Err(Error::Unexpected(format!("{name} instead of {full_name}")));
    }
    M::decode(any.value.as_slice())
        .map_err(|error| Error::Unexpected(format!("no {full_name}: {error}")))
}
