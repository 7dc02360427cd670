//! Who calls.

use std::fmt;

/// The authenticated caller of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Nobody asked: loopback, Unix socket or `--insecure` only.
    Anonymous,
    /// The process on the other side of a Unix socket.
    UnixUser {
        /// Its user id.
        uid: u32,
    },
    /// The holder of a client certificate.
    Certificate {
        /// Its SPIFFE URI, else its subject.
        identity: String,
    },
    /// Howdah itself, which calls no method.
    Howdah,
}

impl fmt::Display for Principal {
    /// A stable text, under which idempotency records are kept.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => formatter.write_str("anonymous"),
            Self::UnixUser { uid } => write!(formatter, "uid:{uid}"),
            Self::Certificate { identity } => write!(formatter, "cert:{identity}"),
            Self::Howdah => formatter.write_str("howdah"),
        }
    }
}
