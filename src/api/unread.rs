//! Answers that the client does not read.
//!
//! HTTP/2 sends what the client's window allows. A client that opens none would keep its
//! answers here for ever. Therefore the body of an answer says when it was asked for more
//! ([`note`]), and the task of the call ends when that does not happen in time: the call
//! is reset, and what waited for its window is dropped.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

tokio::task_local! {
    /// What the body of the task's call has said last.
    static NOTED: Cell<Noted>;
}

/// How far an answer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Noted {
    /// How often the body was asked.
    asked: u64,
    /// Who has what it answered last, if that is the client's to read.
    reader: Option<Reader>,
}

/// How long a client may leave unread what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// It waits for the answer.
    OfCall,
    /// It follows a stream, and may pause.
    OfStream,
}

/// Says that a body was asked for more, and whether what it answers is now the client's.
pub(super) fn note(reader: Option<Reader>) {
    // Unit tests have no listener, and so no receiver.
    let _ = NOTED.try_with(|noted| {
        noted.set(Noted {
            asked: noted.get().asked.wrapping_add(1),
            reader,
        });
    });
}

/// How long answers may stay unread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// With an answer of a call, and of a public stream.
    pub(super) call: Duration,
    /// With a message of a stream of changes.
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

/// The task of a call, which ends when its answer is not read in time; `given_up` runs then.
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
    /// A call that is given up when its answer is not read.
    struct Attended<F, G> {
        #[pin]
        call: Option<F>,
        patience: Patience,
        // What the timer was set for.
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

    /// Whether a call is given up that does this.
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
