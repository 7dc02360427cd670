//! Decompresses requests before they are served, up to a limit.
//!
//! A few kilobytes can expand to gigabytes. tonic limits the message too, but not the window of
//! zstd, up to 128 MiB of memory that the sender chooses, and its errors lack Howdah's reasons.
//! So tonic never gets a compressed message.

use std::io::Read;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use tonic::Status;

use crate::{
    api::method::{Effect, Method},
    domain::{Error, Reason},
};

use super::Response;

/// Header with the encoding of a request's messages.
const ENCODING: &str = "grpc-encoding";

/// Header with the encodings that a response may have.
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// Supported encodings.
const UNDERSTOOD: HeaderValue = HeaderValue::from_static("gzip,zstd,identity");

/// Bytes before a message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// Largest window of zstd, as a power of two. It determines the memory for decompression, and
/// the sender chooses it. This is the window of the highest usual level.
const ZSTD_WINDOW: u32 = 23;

/// Encoding of a request's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// Removes the encoding from a request's headers, because inner layers see decompressed
    /// messages.
    ///
    /// # Errors
    /// UNIMPLEMENTED.
    pub(super) fn take(headers: &mut HeaderMap) -> Result<Self, Error> {
        let Some(name) = headers.get(ENCODING) else {
            return Ok(Self::Identity);
        };
        let encoding = match name.as_bytes() {
            b"identity" => Self::Identity,
            b"gzip" => Self::Gzip,
            b"zstd" => Self::Zstd,
            _ => {
                let message = "messages may be compressed with gzip or zstd";
                return Err(Error::new(Reason::Unimplemented, message));
            }
        };
        headers.remove(ENCODING);
        Ok(encoding)
    }

    /// Decompresses the message of a request, to at most `most` bytes. Anything else than one
    /// compressed message is returned unchanged.
    ///
    /// # Errors
    /// MESSAGE_TOO_LARGE, MESSAGE_UNDECODABLE.
    pub(super) fn decompress(self, request: Bytes, most: usize) -> Result<Bytes, Error> {
        let [1, a, b, c, d, rest @ ..] = &request[..] else {
            return Ok(request);
        };
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some((message, behind)) = rest.split_at_checked(length) else {
            return Ok(request);
        };
        let plain = match self {
            // The flag says "compressed" but there is no encoding. Another layer refuses that.
            Self::Identity => return Ok(request),
            Self::Gzip => bounded(flate2::read::GzDecoder::new(message), most),
            Self::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(message).map_err(|_| undecodable())?;
                let bounds = decoder.window_log_max(ZSTD_WINDOW);
                bounds.map_err(|_| undecodable())?;
                bounded(decoder, most)
            }
        }?;
        let mut whole = BytesMut::with_capacity(HEAD + plain.len() + behind.len());
        whole.put_u8(0);
        whole.put_u32(u32::try_from(plain.len()).map_err(|_| too_large())?);
        whole.extend_from_slice(&plain);
        whole.extend_from_slice(behind);
        Ok(whole.freeze())
    }
}

fn bounded(decoder: impl Read, most: usize) -> Result<Vec<u8>, Error> {
    let mut plain = Vec::new();
    let one_more = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut decoder = decoder.take(one_more);
    decoder.read_to_end(&mut plain).map_err(|_| undecodable())?;
    match plain.len() <= most {
        true => Ok(plain),
        false => Err(too_large()),
    }
}

fn undecodable() -> Error {
    let message = "the bytes are not compressed as the request says";
    Error::new(Reason::MessageUndecodable, message)
}

fn too_large() -> Error {
    let message = "the message is larger than this server takes, once it is decompressed";
    Error::new(Reason::MessageTooLarge, message)
}

/// The response to a refused request, with the supported encodings.
pub(super) fn refused(refusal: Error) -> Response {
    let is_encoding = refusal.reason() == Reason::Unimplemented;
    let mut response: Response = Status::from(refusal).into_http();
    if is_encoding {
        response.headers_mut().insert(ACCEPT_ENCODING, UNDERSTOOD);
    }
    response
}

/// Allows compression for large responses: lists and changes. For others it would cost more than
/// it saves. A response with a secret is never compressed, because its length would reveal
/// something about the secret.
pub(super) fn choose_answers(method: Option<&Method>, headers: &mut HeaderMap) {
    let large = method.is_some_and(|method| {
        let lists = method.name.rsplit('/').next();
        let lists = lists.is_some_and(|name| name.starts_with("List"));
        let changes = method.streaming && !method.is_public();
        method.effect == Effect::Read && (lists || changes)
    });
    if !large {
        headers.remove(ACCEPT_ENCODING);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn framed(message: &[u8]) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(1);
        bytes.put_u32(message.len().try_into().unwrap());
        bytes.extend_from_slice(message);
        bytes.freeze()
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_was_compressed_comes_out_and_a_bomb_does_not() {
        let plain = [7; 1000];
        let zstd = zstd::encode_all(&plain[..], 3).unwrap();
        for (encoding, message) in [(Encoding::Gzip, gzip(&plain)), (Encoding::Zstd, zstd)] {
            let out = encoding.decompress(framed(&message), 1000).unwrap();
            assert_eq!(out[..HEAD], [0, 0, 0, 3, 232]);
            assert_eq!(out[HEAD..], plain);
            let refused = encoding.decompress(framed(&message), 999).unwrap_err();
            assert_eq!(refused.reason(), Reason::MessageTooLarge);
            let refused = encoding.decompress(framed(b"no such"), 999).unwrap_err();
            assert_eq!(refused.reason(), Reason::MessageUndecodable);
        }
    }

    #[test]
    fn a_window_that_takes_too_much_memory_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(ZSTD_WINDOW + 4).unwrap();
        encoder.write_all(&vec![1; 1 << 20]).unwrap();
        let message = encoder.finish().unwrap();
        let refused = Encoding::Zstd.decompress(framed(&message), 1 << 22);
        assert_eq!(refused.unwrap_err().reason(), Reason::MessageUndecodable);
    }

    #[test]
    fn what_is_no_compressed_message_stays() {
        for bytes in [&b""[..], b"\0\0\0\0\x01x", b"\x01\0\0\0\x09x"] {
            let bytes = Bytes::copy_from_slice(bytes);
            assert_eq!(Encoding::Gzip.decompress(bytes.clone(), 9).unwrap(), bytes);
        }
    }
}
