//! Frames: a type byte, a length of four bytes that counts itself, a body.

use bytes::Bytes;

use super::cursor::Malformed;

/// The bytes of a frame's header.
pub const HEADER: usize = 5;

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The type byte.
    pub tag: u8,
    /// What follows the length.
    pub body: Bytes,
}

/// The type byte and the length of the body, if the header is there.
pub fn header(bytes: &[u8]) -> Result<Option<(u8, usize)>, Malformed> {
    let Some(&[tag, a, b, c, d]) = bytes.first_chunk() else {
        return Ok(None);
    };
    let declared = i32::from_be_bytes([a, b, c, d]);
    match usize::try_from(declared)
        .ok()
        .and_then(|n| n.checked_sub(4))
    {
        Some(body) => Ok(Some((tag, body))),
        None => Err(Malformed("impossible length")),
    }
}

/// Part of a frame's body, as it lay in a chunk that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The frame's type byte.
    pub tag: u8,
    /// Whether the body starts here.
    pub first: bool,
    /// Whether the body ends here.
    pub last: bool,
    /// The bytes; empty for an empty body.
    pub bytes: &'a [u8],
}

/// Walks frames through chunks of any size without keeping them: a frame that
/// is larger than a chunk passes by a counter of the bytes that remain.
#[derive(Debug, Default)]
pub struct Scanner {
    partial: Vec<u8>,
    body: Option<Body>,
}

#[derive(Clone, Copy, Debug)]
struct Body {
    tag: u8,
    remaining: usize,
    first: bool,
}

impl Scanner {
    /// The next piece in `chunk`, which is moved on past it; none when more
    /// bytes are needed.
    pub fn next<'a>(&mut self, chunk: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Malformed> {
        let body = match self.body {
            Some(body) => body,
            None => match self.start(chunk)? {
                Some(body) => body,
                None => return Ok(None),
            },
        };
        if chunk.is_empty() && body.remaining > 0 {
            self.body = Some(body);
            return Ok(None);
        }
        let len = body.remaining.min(chunk.len());
        let (bytes, rest) = chunk.split_at_checked(len).unwrap_or((chunk, &[]));
        *chunk = rest;
        let remaining = body.remaining - len;
        self.body = (remaining > 0).then_some(Body {
            remaining,
            first: false,
            ..body
        });
        Ok(Some(Piece {
            tag: body.tag,
            first: body.first,
            last: remaining == 0,
            bytes,
        }))
    }

    /// Gathers a header, which may be spread over chunks.
    fn start(&mut self, chunk: &mut &[u8]) -> Result<Option<Body>, Malformed> {
        let missing = HEADER.saturating_sub(self.partial.len()).min(chunk.len());
        let (now, rest) = chunk.split_at_checked(missing).unwrap_or((chunk, &[]));
        self.partial.extend_from_slice(now);
        *chunk = rest;
        let Some((tag, remaining)) = header(&self.partial)? else {
            return Ok(None);
        };
        self.partial.clear();
        Ok(Some(Body {
            tag,
            remaining,
            first: true,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
        prop::collection::vec(
            (any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)),
            0..20,
        )
    }

    fn write(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, body) in frames {
            out.push(*tag);
            out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
            out.extend_from_slice(body);
        }
        out
    }

    proptest! {
        #[test]
        fn chunks_of_any_size_give_the_same_frames(frames in frames(), size in 1usize..50) {
            let bytes = write(&frames);
            let (mut scanner, mut seen, mut open) = (Scanner::default(), vec![], None);
            for mut chunk in bytes.chunks(size) {
                while let Some(piece) = scanner.next(&mut chunk).unwrap() {
                    prop_assert_eq!(piece.first, open.is_none());
                    let (_, body) = open.get_or_insert((piece.tag, vec![]));
                    body.extend_from_slice(piece.bytes);
                    if piece.last {
                        seen.extend(open.take());
                    }
                }
                prop_assert!(chunk.is_empty());
            }
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, size in 1usize..9) {
            let mut scanner = Scanner::default();
            'all: for mut chunk in bytes.chunks(size) {
                loop {
                    match scanner.next(&mut chunk) {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'all,
                    }
                }
            }
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        assert!(header(b"d\0\0\0\x03").is_err());
        assert!(header(b"d\xff\xff\xff\xff").is_err());
        assert_eq!(header(b"d\0\0\0"), Ok(None));
        assert_eq!(header(b"Z\0\0\0\x05I"), Ok(Some((b'Z', 1))));
    }
}
