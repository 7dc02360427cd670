//! Streams of connections, with and without TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

/// A stream without TLS.
#[derive(Debug)]
pub enum Plain {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A connection through a Unix socket.
    Unix(UnixStream),
}

/// A stream with or without TLS.
#[derive(Debug)]
pub enum Stream {
    /// Without TLS.
    Plain(Plain),
    /// With TLS.
    Tls(Box<TlsStream<Plain>>),
}

/// Reads from the stream inside, of a type that may have one type of stream as its parameter.
macro_rules! delegate_read {
    ($type:ty $(, $inner:ident)?: $($variant:pat => $stream:ident),*) => {
        impl<$($inner: tokio::io::AsyncRead + Unpin)?> tokio::io::AsyncRead for $type {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                buffer: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $($variant => std::pin::Pin::new($stream).poll_read(context, buffer),)*
                }
            }
        }
    };
}

pub(crate) use delegate_read;

macro_rules! delegate_write {
    ($enum:ty: $($variant:pat => $stream:ident),*) => {
        impl AsyncWrite for $enum {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() { $($variant => Pin::new($stream).poll_write(context, bytes),)* }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                slices: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $($variant => Pin::new($stream).poll_write_vectored(context, slices),)*
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self { $($variant => $stream.is_write_vectored(),)* }
            }

            fn poll_flush(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() { $($variant => Pin::new($stream).poll_flush(context),)* }
            }

            fn poll_shutdown(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() { $($variant => Pin::new($stream).poll_shutdown(context),)* }
            }
        }
    };
}

delegate_read!(Plain: Plain::Tcp(stream) => stream, Plain::Unix(stream) => stream);
delegate_write!(Plain: Plain::Tcp(stream) => stream, Plain::Unix(stream) => stream);
delegate_read!(Stream: Stream::Plain(stream) => stream, Stream::Tls(stream) => stream);
delegate_write!(Stream: Stream::Plain(stream) => stream, Stream::Tls(stream) => stream);

/// A stream whose first bytes were read already and will be read again. Reading them early
/// detects a client that sends nothing, which would hold its connection for ever.
#[derive(Debug)]
pub struct Prefaced {
    unread: &'static [u8],
    stream: Stream,
}

impl Prefaced {
    /// Waits for the preface that each client of the protocol sends first, at most 64 bytes.
    ///
    /// # Errors
    /// When the client closes the connection, or sends something else.
    pub async fn read(mut stream: Stream, preface: &'static [u8]) -> io::Result<Self> {
        let mut bytes = [0; 64];
        let Some(bytes) = bytes.get_mut(..preface.len()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        stream.read_exact(bytes).await?;
        if *bytes != *preface {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "another protocol",
            ));
        }
        Ok(Self {
            unread: preface,
            stream,
        })
    }
}

impl AsyncRead for Prefaced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let (now, later) = self
            .unread
            .split_at(self.unread.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.unread = later;
        Poll::Ready(Ok(()))
    }
}

delegate_write!(Prefaced: Prefaced { stream, .. } => stream);
