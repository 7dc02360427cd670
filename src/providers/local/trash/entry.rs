//! Names of the entries in the trash.

use std::fmt;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Suffix of the name of an entry that is being deleted.
const DELETING: &str = "deleting";

/// Name of an entry: `{uid}.{seconds}`, with `.deleting` appended while it is being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    /// Unique id of the server.
    pub(super) server: Uuid,
    /// When it was thrown away, in whole seconds.
    pub(super) time: DateTime<Utc>,
    /// Whether it is being deleted.
    pub(super) deleting: bool,
}

impl Name {
    /// Name for data that is thrown away now and kept for a while.
    pub(super) fn kept(server: Uuid, now: DateTime<Utc>) -> Self {
        Self {
            server,
            time: now,
            deleting: false,
        }
    }

    /// Name of the same entry while it is being deleted.
    pub(super) fn deleting(self) -> Self {
        Self {
            deleting: true,
            ..self
        }
    }

    /// Parses a name; none if it is not the name of an entry.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (uid, rest) = name.split_once('.')?;
        let (seconds, deleting) = match rest.split_once('.') {
            Some((seconds, DELETING)) => (seconds, true),
            Some(_) => return None,
            None => (rest, false),
        };
        let found = Self {
            server: Uuid::try_parse(uid).ok()?,
            time: DateTime::from_timestamp(seconds.parse().ok()?, 0)?,
            deleting,
        };
        // Entries are found by their formatted name, so only names in that exact form count.
        (found.to_string() == name).then_some(found)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.server, self.time.timestamp())?;
        match self.deleting {
            true => write!(formatter, ".{DELETING}"),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_what_it_writes(uid in any::<u128>(), seconds in 0i64..1 << 40) {
            let time = DateTime::from_timestamp(seconds, 0).unwrap();
            let kept = Name::kept(Uuid::from_u128(uid), time);
            for name in [kept, kept.deleting()] {
                prop_assert_eq!(Name::parse(&name.to_string()), Some(name));
            }
        }

        #[test]
        fn garbage_never_panics(text in ".{0,60}") {
            let _ = Name::parse(&text);
        }
    }

    #[test]
    fn other_names_are_not_ours() {
        let uid = Uuid::from_u128(7);
        for name in [
            "keep".to_owned(),
            uid.to_string(),
            format!("{uid}.x"),
            format!("{uid}.+1"),
            format!("{uid}.1.other"),
            format!("{uid}.99999999999999999"),
            format!("{}.1", uid.as_simple()),
        ] {
            assert_eq!(Name::parse(&name), None, "{name}");
        }
    }
}
