//! A stream with a buffer, read frame by frame.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frame::{Frame, HEADER, header};
use crate::pg::{Error, Stream};

/// A connection in the phases where messages are few and small: startup and
/// simple queries.
#[derive(Debug)]
pub struct Channel {
    stream: Stream,
    buffer: BytesMut,
    limit: usize,
}

impl Channel {
    /// Over a fresh stream; a message whose body is longer than `limit` bytes
    /// is a protocol violation, found before memory is taken for it.
    pub fn new(stream: Stream, limit: usize) -> Self {
        Channel {
            stream,
            buffer: BytesMut::with_capacity(8 * 1024),
            limit,
        }
    }

    /// The stream below.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The stream, with what was read from it and not yet looked at.
    pub fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream, self.buffer)
    }

    /// The next message. Safe to cancel.
    pub async fn read(&mut self) -> Result<Frame, Error> {
        loop {
            if let Some((tag, len)) = header(&self.buffer)? {
                if len > self.limit {
                    return Err(Error::protocol(format!(
                        "a message of {len} bytes is over the limit of {}",
                        self.limit
                    )));
                }
                if self.buffer.len() >= HEADER + len {
                    self.buffer.advance(HEADER);
                    let body = self.buffer.split_to(len).freeze();
                    return Ok(Frame { tag, body });
                }
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(Error::Closed);
            }
        }
    }

    /// Sends bytes and flushes.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Sends what `write` puts into a buffer.
    pub async fn send_with(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), Error> {
        let mut out = BytesMut::new();
        write(&mut out).map_err(|e| Error::protocol(e.to_string()))?;
        self.send(&out).await
    }
}
