//! The task that reads a stream's socket.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::duties::{Duties, Duty};
use super::segment::{Item, Segment, item, wants_reply};
use super::stream::Limits;
use crate::pg::wire::frame::{HEADER, header};
use crate::pg::wire::{Scanner, backend};
use crate::pg::{Error, Stream};

/// Size in bytes of the blocks that are read into, and from which segments are cut. A new block
/// is allocated when less than a quarter of it is free.
const READ: usize = 256 * 1024;

/// Why reading ended.
enum End {
    /// The consumer asked for it.
    Closed,
    /// An error, or the end of the stream by the server.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for End {
    fn from(e: E) -> Self {
        End::Failed(e.into())
    }
}

pub(super) struct Reader {
    stream: Stream,
    buffer: BytesMut,
    duties: Duties,
    limits: Limits,
    room: Arc<Semaphore>,
    out: mpsc::UnboundedSender<Result<Segment, Error>>,
}

impl Reader {
    pub(super) fn new(
        stream: Stream,
        buffer: BytesMut,
        duties: Duties,
        mut limits: Limits,
        out: mpsc::UnboundedSender<Result<Segment, Error>>,
    ) -> Self {
        // The semaphore takes a u32.
        limits.buffer = limits
            .buffer
            .clamp(1, u32::MAX as usize)
            .min(Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(limits.buffer));
        Reader {
            stream,
            buffer,
            duties,
            limits,
            room,
            out,
        }
    }

    pub(super) async fn run(mut self) {
        if let Err(End::Failed(error)) = self.pump().await {
            // Fails only when the consumer is gone.
            let _ = self.out.send(Err(error));
        }
    }

    async fn pump(&mut self) -> Result<(), End> {
        loop {
            // Bytes that the startup has read after its own last message come first.
            let (len, end) = self.walk();
            self.duties.publish();
            if len > 0 {
                let segment = self.buffer.split_to(len).freeze();
                self.hand_over(segment).await?;
            }
            if let Some(end) = end {
                return Err(end);
            }
            tokio::select! {
                biased;
                duty = self.duties.next() => self.attend(duty).await?,
                read = fill(&mut self.stream, &mut self.buffer) => {
                    if read? == 0 {
                        return Err(Error::Closed.into());
                    }
                }
            }
        }
    }

    /// Checks the complete messages in the buffer. Returns their length in bytes, and the end of
    /// the stream if it follows them.
    fn walk(&mut self) -> (usize, Option<End>) {
        let mut walked = 0;
        loop {
            match self.step(walked) {
                Ok(Some(len)) => walked += len,
                Ok(None) => return (walked, None),
                Err(end) => return (walked, Some(end)),
            }
        }
    }

    /// The length of the message at `at`, if it is complete.
    fn step(&mut self, at: usize) -> Result<Option<usize>, End> {
        let bytes = self.buffer.get(at..).unwrap_or_default();
        let Some((tag, len)) = header(bytes)? else {
            return Ok(None);
        };
        if len > self.limits.message {
            let (bytes, limit) = (len, self.limits.message);
            return Err(Error::TooLarge { bytes, limit }.into());
        }
        let Some(body) = bytes.get(HEADER..HEADER + len) else {
            return Ok(None);
        };
        match tag {
            b'E' => return Err(Error::Server(Box::new(backend::notice(body)?)).into()),
            // A walsender ends the copy by itself only when its server is stopping and
            // everything was received.
            b'C' | b'c' => return Err(Error::Shutdown.into()),
            _ => {}
        }
        match item(tag, body)? {
            Some(Item::Data(data)) => self.duties.receive(data.lsn, data.sent),
            Some(Item::Keepalive { wal_end, sent }) => {
                let now = wants_reply(body);
                self.duties.receive(wal_end, sent);
                if now {
                    self.duties.reply_at_once();
                }
            }
            Some(Item::Notice(_)) | None => {}
        }
        Ok(Some(HEADER + len))
    }

    /// Waits until the consumer has made room, and does the other duties meanwhile.
    async fn hand_over(&mut self, bytes: Bytes) -> Result<(), End> {
        let wanted = bytes.len().min(self.limits.buffer);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let room = match self.room.clone().try_acquire_many_owned(wanted) {
            Ok(room) => room,
            Err(_) => self.wait_for_room(wanted).await?,
        };
        self.duties.release();
        // The consumer is gone.
        self.out
            .send(Ok(Segment::new(bytes, room)))
            .map_err(|_| End::Closed)
    }

    async fn wait_for_room(&mut self, wanted: u32) -> Result<OwnedSemaphorePermit, End> {
        self.duties.hold();
        loop {
            tokio::select! {
                biased;
                duty = self.duties.next() => self.attend(duty).await?,
                room = self.room.clone().acquire_many_owned(wanted) => {
                    return room.map_err(|_| End::Closed);
                }
            }
        }
    }

    async fn attend(&mut self, duty: Duty) -> Result<(), End> {
        match duty {
            Duty::Feedback => Ok(self.send_feedback().await?),
            Duty::Close => {
                let last = self.send_feedback().await;
                if last.is_ok() {
                    self.wind_down().await;
                }
                Err(End::Closed)
            }
            Duty::Shutdown => {
                self.wind_down().await;
                Err(Error::Shutdown.into())
            }
        }
    }

    async fn send_feedback(&mut self) -> io::Result<()> {
        let message = self.duties.message();
        self.stream.write_all(&message).await?;
        self.stream.flush().await
    }

    /// Sends CopyDone and discards everything that the server still sends: a walsender reads
    /// CopyDone between two transactions only, and cannot go on while its socket is full. If the
    /// server does not end the stream within the grace, the connection is closed, which the
    /// walsender notices at its next write.
    async fn wind_down(&mut self) {
        let (stream, buffer) = (&mut self.stream, &mut self.buffer);
        let work = async {
            stream.write_all(b"c\0\0\0\x04").await?;
            stream.flush().await?;
            forget(stream, buffer).await?;
            stream.write_all(b"X\0\0\0\x04").await?;
            stream.shutdown().await
        };
        let _: Result<io::Result<()>, _> = timeout(self.limits.grace, work).await;
    }
}

/// Reads up to ReadyForQuery, an error or the end.
async fn forget(stream: &mut Stream, buffer: &mut BytesMut) -> io::Result<()> {
    let mut scanner = Scanner::default();
    loop {
        let mut chunk = &buffer[..];
        while let Some(piece) = scanner.next(&mut chunk).map_err(io::Error::other)? {
            if matches!(piece.tag, b'Z' | b'E') {
                return Ok(());
            }
        }
        buffer.clear();
        if fill(stream, buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// Reads all bytes that are available, up to the block's end. Safe to cancel.
async fn fill(stream: &mut Stream, buffer: &mut BytesMut) -> io::Result<usize> {
    if buffer.capacity() - buffer.len() < READ / 4 {
        buffer.reserve(READ);
    }
    let mut total = stream.read_buf(buffer).await?;
    // A read from TLS returns one record. A segment should have several.
    while total > 0 && buffer.len() < buffer.capacity() {
        match stream.read_buf(buffer).now_or_never() {
            Some(Ok(more)) if more > 0 => total += more,
            _ => break,
        }
    }
    Ok(total)
}
