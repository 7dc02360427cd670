//! Ends calls whose responses are not read.
//!
//! HTTP/2 sends as much as the client's window admits. A client that never opens its window
//! would keep its responses here for ever. So the body of a response notes each time that it is
//! polled for more ([`note`]). If that does not happen in time the task of the call ends: the
//! call is reset, and the bytes that wait for the window are dropped.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

tokio::task_local! {
    /// What the body of this task's call has noted last.
    static NOTED: Cell<Noted>;
}

/// Progress of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Noted {
    /// How often the body was polled.
    asked: u64,
    /// Kind of reader, if the bytes of the last poll now wait for the client.
    reader: Option<Reader>,
}

/// Kinds of readers, which may leave data unread for different times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// A client that waits for a response.
    OfCall,
    /// A client that follows a stream, and may pause.
    OfStream,
}

/// Notes that a body was polled for more. `reader` is set if its bytes now wait for the client.
pub(super) fn note(reader: Option<Reader>) {
    // Unit tests have no listener, so nothing is stored.
    let _ = NOTED.try_with(|noted| {
        noted.set(Noted {
            asked: noted.get().asked.wrapping_add(1),
            reader,
        });
    });
}

/// How long responses may stay unread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Responses of calls and of public streams.
    pub(super) call: Duration,
    /// Messages of a stream of changes.
    pub(super) stream: Duration,
}

impl Patience {
    const fn with(&self, reader: Reader) -> Duration {
        match reader {
            Reader::OfCall => self.call,
            Reader::OfStream => self.stream,
        }
    }
}

/// Runs a call, and ends it if its response is not read in time. `given_up` runs in that case.
pub(super) fn attended<F: Future<Output = ()>, G: FnOnce()>(
    call: F,
    patience: Patience,
    given_up: G,
) -> impl Future<Output = ()> {
    let attended = Attended {
        call: Some(call),
        patience,
        seen: Noted::default(),
        late: None,
        given_up: Some(given_up),
    };
    NOTED.scope(Cell::default(), attended)
}

pin_project! {
    /// A call that is ended when its response is not read.
    struct Attended<F, G> {
        #[pin]
        call: Option<F>,
        patience: Patience,
        // The progress for which the timer was set.
        seen: Noted,
        #[pin]
        late: Option<Sleep>,
        given_up: Option<G>,
    }
}

impl<F: Future<Output = ()>, G: FnOnce()> Future for Attended<F, G> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(call) = this.call.as_mut().as_pin_mut() else {
            return Poll::Ready(());
        };
        if call.poll(context).is_ready() {
            return Poll::Ready(());
        }
        let noted = NOTED.with(Cell::get);
        let Some(reader) = noted.reader else {
            return Poll::Pending;
        };
        if *this.seen != noted {
            *this.seen = noted;
            let patience = this.patience.with(reader);
            match this.late.as_mut().as_pin_mut() {
                Some(late) => late.reset(Instant::now() + patience),
                None => this.late.set(Some(sleep(patience))),
            }
        }
        let Some(late) = this.late.as_pin_mut() else {
            return Poll::Pending;
        };
        if late.poll(context).is_pending() {
            return Poll::Pending;
        }
        this.call.set(None);
        if let Some(given_up) = this.given_up.take() {
            given_up();
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const PATIENCE: Patience = Patience {
        call: Duration::from_millis(50),
        stream: Duration::from_secs(3600),
    };

    /// Whether a call with this behaviour is ended.
    async fn is_given_up(call: impl Future<Output = ()>) -> bool {
        let mut given_up = false;
        let attended = attended(call, PATIENCE, || given_up = true);
        let _ = tokio::time::timeout(4 * PATIENCE.call, attended).await;
        given_up
    }

    #[tokio::test]
    async fn only_a_client_that_does_not_read_is_given_up() {
        let unread = |reader| async move {
            note(reader);
            pending().await
        };
        assert!(is_given_up(unread(Some(Reader::OfCall))).await);
        assert!(!is_given_up(unread(Some(Reader::OfStream))).await);
        assert!(!is_given_up(unread(None)).await);
        assert!(!is_given_up(pending()).await);
        let ours_again = async {
            note(Some(Reader::OfCall));
            tokio::task::yield_now().await;
            note(None);
            pending().await
        };
        assert!(!is_given_up(ours_again).await);
    }
}
