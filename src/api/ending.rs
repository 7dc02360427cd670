//! The end of a connection, as its calls see it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::domain::{Error, Reason};

/// Tells the calls of a connection that it ends. The connection sends GOAWAY first, after which
/// clients use another connection for new calls.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// The client's certificate is not accepted any more.
    closed: AtomicBool,
    /// Cancelled when the grace of the running calls is over.
    over: CancellationToken,
}

impl Ending {
    /// Refuses new calls from now on.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// Checks whether new calls may begin.
    ///
    /// # Errors
    /// CONNECTION_ENDING when the client's certificate is not accepted any more. The handshake
    /// of its next connection decides whether its present certificate is.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !self.closed.load(Relaxed) {
            return Ok(());
        }
        let message = "the client certificate of this connection has expired or is not accepted \
                       any more: connect again with a valid one";
        Err(Error::new(Reason::ConnectionEnding, message))
    }

    /// Ends the running calls.
    pub(super) fn finish(&self) {
        self.over.cancel();
    }

    /// Waits until the running calls must end.
    pub(super) fn finished(&self) -> WaitForCancellationFutureOwned {
        self.over.clone().cancelled_owned()
    }
}

/// The error of a call that was ended with its connection.
pub(super) fn ended() -> Error {
    let message =
        "the connection was told to go, and the time for its calls is over: connect again";
    Error::new(Reason::ConnectionEnding, message)
}
