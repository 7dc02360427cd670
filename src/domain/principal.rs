//! Who calls.

use std::fmt;

/// The caller of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The caller was not asked who it is: loopback, Unix socket or `--insecure` only.
    Anonymous,
    /// The process on the other side of a Unix socket.
    UnixUser {
        /// Its user id.
        uid: u32,
    },
    /// The holder of a client certificate.
    Certificate {
        /// Its SPIFFE URI, else its subject as RFC 4514 writes it.
        identity: String,
    },
    /// The holder of a client certificate without an identity. It is never let in.
    Unidentified,
    /// Howdah itself, which calls no method.
    Howdah,
}

impl Principal {
    /// Whether the caller has said who it is.
    #[must_use]
    pub const fn is_authenticated(&self) -> bool {
        match self {
            Self::UnixUser { .. } | Self::Certificate { .. } => true,
            Self::Anonymous | Self::Unidentified | Self::Howdah => false,
        }
    }

    /// Reads `anonymous`, `uid:USER` or `cert:IDENTITY`, as logs and records name
    /// callers; None for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "anonymous" {
            return Some(Self::Anonymous);
        }
        match text.split_once(':')? {
            // Only as it is written: `uid:01` would never be met.
            ("uid", uid) => uid
                .parse()
                .ok()
                .map(|uid| Self::UnixUser { uid })
                .filter(|principal| principal.to_string() == text),
            ("cert", identity) if !identity.is_empty() => Some(Self::Certificate {
                identity: identity.to_owned(),
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Principal {
    /// A stable text, under which idempotency records are kept.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => formatter.write_str("anonymous"),
            Self::UnixUser { uid } => write!(formatter, "uid:{uid}"),
            Self::Certificate { identity } => write!(formatter, "cert:{identity}"),
            Self::Unidentified => formatter.write_str("unidentified"),
            Self::Howdah => formatter.write_str("howdah"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_read_back_as_they_are_written() {
        for text in [
            "anonymous",
            "uid:0",
            "uid:1000",
            "cert:CN=a,O=b",
            "cert:x:y",
        ] {
            assert_eq!(Principal::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "howdah",
            "unidentified",
            "uid:",
            "uid:+1",
            "uid:01",
            "cert:",
            "CN=a",
        ] {
            assert_eq!(Principal::parse(text), None, "{text}");
        }
    }
}
