//! From a connection to the principal of its calls.

use crate::domain::principal::Principal;

use super::{Peer, certificate::Identity, peer::PeerAddress};

/// Who calls through this connection: the client certificate's identity, else the
/// Unix socket's user, else nobody known.
#[must_use]
pub fn identify(peer: &Peer) -> Principal {
    match (&peer.certificate, peer.address) {
        (Some(Identity::Of(identity)), _) => Principal::Certificate {
            identity: identity.clone(),
        },
        (Some(Identity::Nobody), _) => Principal::Unidentified,
        (None, PeerAddress::Unix { uid }) => Principal::UnixUser { uid },
        (None, PeerAddress::Tcp(_)) => Principal::Anonymous,
    }
}
