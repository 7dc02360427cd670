//! A stream with a time limit on writes. A client that does not read from its socket would keep
//! its connection, and the data that waits for it, for ever. HTTP/2's PING does not detect that,
//! because a PING has to be written too.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::AsyncWrite,
    time::{Sleep, sleep},
};

use super::stream::delegate_read;

/// A stream that returns an error if a write makes no progress in time.
#[derive(Debug)]
pub struct Writing<S> {
    stream: S,
    timeout: Duration,
    /// The timer; set while a write is pending.
    late: Option<Pin<Box<Sleep>>>,
}

impl<S> Writing<S> {
    /// Each write may be pending for `timeout`.
    pub const fn new(stream: S, timeout: Duration) -> Self {
        Self {
            stream,
            timeout,
            late: None,
        }
    }

    /// Passes the result of a write on, or an error after the time limit.
    fn bounded<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.late = None;
            return polled;
        }
        let timeout = self.timeout;
        let late = self.late.get_or_insert_with(|| Box::pin(sleep(timeout)));
        late.as_mut().poll(context).map(|()| {
            let message = "the other side does not read";
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        })
    }
}

delegate_read!(Writing<S>, S: Writing { stream, .. } => stream);

impl<S: AsyncWrite + Unpin> AsyncWrite for Writing<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.bounded(polled, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.bounded(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(context);
        this.bounded(polled, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_shutdown(context);
        this.bounded(polled, context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn a_write_fails_when_nobody_reads_and_not_when_somebody_reads_slowly() {
        const BOUND: Duration = Duration::from_millis(500);
        let (here, mut there) = duplex(64);
        let mut stream = Writing::new(here, BOUND);
        let slow = async {
            for _ in 0..8 {
                sleep(BOUND / 5).await;
                there.read_exact(&mut [0; 32]).await.unwrap();
            }
        };
        let writing = stream.write_all(&[1; 5 * 64]);
        let (written, ()) = tokio::join!(writing, slow);
        written.unwrap();
        let failed = timeout(20 * BOUND, stream.write_all(&[1; 64])).await;
        assert_eq!(failed.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
