//! Records that this release can read, and those that it cannot.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Error, Reason, Result};

/// A record of the metadata as this release reads it.
#[derive(Clone, Debug)]
pub enum Recorded<T> {
    /// All of it.
    Whole(T),
    /// What is left of one that another release has written.
    Unreadable(Box<Unreadable>),
}

/// A record with a state, a version or a document that this release does not know.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// Resource name.
    pub name: String,
    /// Last segment of the name.
    pub id: String,
    /// Unique id, never reused.
    pub uid: Uuid,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it last changed.
    pub update_time: DateTime<Utc>,
    /// When it was deleted.
    pub delete_time: Option<DateTime<Utc>>,
    /// The column that cannot be read. Its content is not shown: it may be anything.
    pub column: &'static str,
}

impl<T> Recorded<T> {
    /// The record, to work with it.
    ///
    /// # Errors
    /// RECORD_UNREADABLE.
    pub fn whole(self) -> Result<T> {
        match self {
            Self::Whole(record) => Ok(record),
            Self::Unreadable(unreadable) => Err(unreadable.error()),
        }
    }

    /// The record after `change`, if it can be read.
    #[must_use]
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Recorded<U> {
        match self {
            Self::Whole(record) => Recorded::Whole(change(record)),
            Self::Unreadable(unreadable) => Recorded::Unreadable(unreadable),
        }
    }
}

impl Unreadable {
    /// What is wrong, for people.
    #[must_use]
    pub fn message(&self) -> String {
        format!(
            "this release of Howdah cannot read the record: its `{}` was written by another \
             release",
            self.column
        )
    }

    /// Why nothing can be done with it here.
    #[must_use]
    pub fn error(&self) -> Error {
        Error::new(Reason::RecordUnreadable, self.message()).with_resource(self.name.clone())
    }
}
