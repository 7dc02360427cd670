//! Combines the frames of a response into fewer writes.
//!
//! The task of a call makes the headers, the message and the trailers of a unary response. The
//! task of the connection writes them, often on another core, so the first frame would be
//! written alone. Each write costs both ends more than its frames do. So a flush yields once
//! before it writes, and frames that are almost ready are written together with the first one.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWrite;

use crate::accept::delegate_read;

/// Most bytes that wait for a flush. Larger writes are passed through.
const CAPACITY: usize = 8 * 1024;

/// A stream whose small writes wait for the flush.
#[derive(Debug)]
pub(super) struct Coalesced<S> {
    stream: S,
    waiting: BytesMut,
    /// Whether the present flush has yielded already.
    yielded: bool,
}

impl<S: AsyncWrite + Unpin> Coalesced<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            waiting: BytesMut::new(),
            yielded: false,
        }
    }

    /// Writes the waiting bytes.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(context, &self.waiting);
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.waiting.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }
}

delegate_read!(Coalesced<S>, S: Coalesced { stream, .. } => stream);

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesced<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if this.waiting.len() + length > CAPACITY {
            ready!(this.poll_drain(context))?;
        }
        if length > CAPACITY {
            return Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        }
        for slice in slices {
            this.waiting.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.waiting.is_empty() && !this.yielded {
            this.yielded = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(this.poll_drain(context))?;
        this.yielded = false;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn small_writes_wait_for_the_flush_and_large_ones_do_not() {
        let (here, mut there) = duplex(4 * CAPACITY);
        let mut stream = Coalesced::new(here);
        stream.write_all(b"one").await.unwrap();
        stream.write_all(b"two").await.unwrap();
        assert_eq!(stream.waiting.len(), 6);
        stream.flush().await.unwrap();
        assert!(stream.waiting.is_empty());
        stream.write_all(b"three").await.unwrap();
        // Passed through, but never before the bytes that wait.
        stream.write_all(&[7; CAPACITY + 1]).await.unwrap();
        assert!(stream.waiting.is_empty());
        stream.write_all(b"end").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = Vec::new();
        there.read_to_end(&mut all).await.unwrap();
        let (start, rest) = all.split_at(11);
        assert_eq!(start, b"onetwothree");
        assert_eq!(rest, [&[7; CAPACITY + 1][..], b"end"].concat());
    }

    #[tokio::test]
    async fn a_reader_that_stops_holds_the_writer() {
        let (here, mut there) = duplex(CAPACITY);
        let mut stream = Coalesced::new(here);
        let writing = async {
            for _ in 0..100 {
                stream.write_all(&[1; 1000]).await.unwrap();
            }
            stream.shutdown().await.unwrap();
        };
        let reading = async {
            let mut all = Vec::new();
            there.read_to_end(&mut all).await.unwrap();
            all.len()
        };
        let ((), length) = tokio::join!(writing, reading);
        assert_eq!(length, 100_000);
    }
}
