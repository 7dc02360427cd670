//! The end of a connection, as its calls see it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::domain::{Error, Reason};

/// What the connection tells its calls. It sends GOAWAY first, and clients then make
/// another connection for new calls.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// The client's certificate is not accepted any more.
    closed: AtomicBool,
    /// The calls under way have had their grace.
    over: CancellationToken,
}

impl Ending {
    /// Lets no new call begin.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// Whether new calls may begin.
    ///
    /// # Errors
    /// CONNECTION_ENDING when the client's certificate is not accepted any more. Whether
    /// its next one is, the next handshake finds out.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !self.closed.load(Relaxed) {
            return Ok(());
        }
        let message = "the client certificate of this connection has expired or is not accepted \
                       any more: connect again with a valid one";
        Err(Error::new(Reason::ConnectionEnding, message))
    }

    /// Ends the calls under way.
    pub(super) fn finish(&self) {
        self.over.cancel();
    }

    /// Waits until calls have to end.
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
