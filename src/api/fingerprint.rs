//! Fingerprints of requests, to recognise repetitions.

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;

/// A hash of a request. Equal contents have equal hashes, because maps are encoded in order.
pub(super) fn fingerprint(request: &impl Message) -> Vec<u8> {
    digest(&SHA256, &request.encode_to_vec()).as_ref().to_vec()
}
