//! A stream whose writes must get on: a client that reads nothing from its socket would
//! keep its connection, and what waits on it, for ever. HTTP/2's PING does not help there,
//! since it has to be written too.

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

/// A stream that fails when a write makes no progress in time.
#[derive(Debug)]
pub struct Writing<S> {
    stream: S,
    timeout: Duration,
    /// Set while a write waits.
    late: Option<Pin<Box<Sleep>>>,
}

impl<S> Writing<S> {
    /// Each write may wait so long for the other side.
    pub const fn new(stream: S, timeout: Duration) -> Self {
        Self {
            stream,
            timeout,
            late: None,
        }
    }

    /// What became of a write: done, or given up.
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
