//! HTTP/2 frames by hand, for clients that no library can be made to be.

use std::{io, net::SocketAddr};

use bytes::{BufMut as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::harness::BOUND;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

const INITIAL_WINDOW_SIZE: u16 = 4;
const CANCEL: u32 = 8;

/// A connection whose frames are written and read as they are.
pub(crate) struct Framed<S = TcpStream>(pub(crate) S);

/// A frame that was read.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) payload: Vec<u8>,
}

impl Framed {
    /// A connection that has greeted, with such a window for each answer.
    pub(crate) async fn connect(address: SocketAddr, window: u32) -> Self {
        Self::try_connect(address, window).await.unwrap()
    }

    /// The same, of a server that may refuse.
    pub(crate) async fn try_connect(address: SocketAddr, window: u32) -> io::Result<Self> {
        Self::greet(TcpStream::connect(address).await?, window).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    /// The same over this stream.
    pub(crate) async fn over(stream: S, window: u32) -> Self {
        Self::greet(stream, window).await.unwrap()
    }

    async fn greet(mut stream: S, window: u32) -> io::Result<Self> {
        let mut settings = BytesMut::new();
        settings.put_u16(INITIAL_WINDOW_SIZE);
        settings.put_u32(window);
        let mut greeting = BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]);
        greeting.unsplit(frame(SETTINGS, 0, 0, &settings));
        stream.write_all(&greeting).await?;
        Ok(Self(stream))
    }

    /// Lets the connection's answers come without end.
    pub(crate) async fn open_window(&mut self) {
        self.write(&wide_open()).await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next frame; none at the end.
    pub(crate) async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        let read = timeout(BOUND, self.0.read_exact(&mut head)).await;
        read.expect("a frame or the end").ok()?;
        let [a, b, c, kind, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind, payload })
    }

    /// The answer of a PING, or else what ended the connection.
    pub(crate) async fn ping(&mut self) -> Option<Frame> {
        self.write(&frame(PING, 0, 0, b"are you?")).await;
        loop {
            let frame = self.read().await?;
            match frame.kind {
                GOAWAY => return Some(frame),
                PING if frame.payload == b"are you?" => return Some(frame),
                _ => {}
            }
        }
    }
}

/// Opens a connection's window as far as it goes.
pub(crate) fn wide_open() -> BytesMut {
    let increment = (1_u32 << 31) - 1 - 65_535;
    frame(WINDOW_UPDATE, 0, 0, &increment.to_be_bytes())
}

/// RFC 9113, section 4.1.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_uint(payload.len().try_into().unwrap(), 3);
    frame.put_u8(kind);
    frame.put_u8(flags);
    frame.put_u32(stream);
    frame.extend_from_slice(payload);
    frame
}

/// A call's headers (RFC 7541, section 6.2.2, without Huffman codes and indexes).
pub(crate) fn headers(stream: u32, path: &str) -> BytesMut {
    const POST: u8 = 0x83;
    const HTTP: u8 = 0x86;
    const END_HEADERS: u8 = 4;
    let mut block = BytesMut::from(&[POST, HTTP][..]);
    for (name, value) in [
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.put_u8(0);
        for text in [name, value] {
            block.put_u8(text.len().try_into().unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// A call with this body.
pub(crate) fn call(stream: u32, path: &str, body: &[u8]) -> BytesMut {
    const END_STREAM: u8 = 1;
    let mut all = headers(stream, path);
    all.unsplit(frame(DATA, END_STREAM, stream, body));
    all
}

/// A call that is cancelled at once.
pub(crate) fn cancelled(stream: u32, path: &str) -> BytesMut {
    let mut all = headers(stream, path);
    all.unsplit(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
    all
}
