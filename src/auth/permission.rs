//! What a method asks of its caller.

use std::fmt;

/// A permission, written `collection.verb`: `instances.create`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Permission(Box<str>);

impl Permission {
    /// Reads a permission; None unless it is two words joined by a dot.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (collection, verb) = text.split_once('.')?;
        let word = |word: &str| {
            word.starts_with(|first: char| first.is_ascii_lowercase())
                && word.chars().all(|char| char.is_ascii_alphanumeric())
        };
        (word(collection) && word(verb)).then(|| Self(text.into()))
    }

    /// The text that it was read from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Who may call a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody: health and reflection.
    Public,
    /// Who holds the permission.
    Permission(Permission),
    /// Nobody: the method carries no permission.
    Closed,
}

#[cfg(test)]
mod tests {
    use super::Permission;

    #[test]
    fn reads_collection_and_verb_only() {
        assert!(Permission::parse("upgrades.cutOver").is_some());
        for wrong in [
            "",
            "instances",
            "instances.",
            ".get",
            "a.b.c",
            "a b.c",
            "A.get",
        ] {
            assert!(Permission::parse(wrong).is_none(), "{wrong}");
        }
    }
}
