//! The other side of a connection.

use std::{fmt, net::SocketAddr};

use super::certificate::Identity;

/// What is known of a connection's other side once it is established.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from.
    pub address: PeerAddress,
    /// Identity of its verified client certificate, if it showed one.
    pub certificate: Option<Identity>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// An address and port.
    Tcp(SocketAddr),
    /// A process on this machine, by its user id.
    Unix {
        /// User id, as the kernel says it.
        uid: u32,
    },
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix { uid } => write!(formatter, "unix:uid={uid}"),
        }
    }
}
