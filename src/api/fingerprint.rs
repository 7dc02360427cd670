//! By what a request is known again.

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;

/// The hash of a request, which is the same for the same content: maps are encoded in
/// order.
pub(super) fn fingerprint(request: &impl Message) -> Vec<u8> {
    digest(&SHA256, &request.encode_to_vec()).as_ref().to_vec()
}
