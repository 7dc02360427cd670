//! What was done, by whom.

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// What was done, as far as the audit is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A resource was changed.
    Mutation,
    /// A secret was handed out.
    Secret,
}

impl Effect {
    /// Its name, in upper case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mutation => "MUTATION",
            Self::Secret => "SECRET",
        }
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An operation works on it.
    Accepted,
    /// It was done at once.
    Done,
    /// The secret was handed out.
    HandedOut,
}

impl Outcome {
    /// Its name, in upper case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "ACCEPTED",
            Self::Done => "DONE",
            Self::HandedOut => "HANDED_OUT",
        }
    }
}

/// One thing that was done. Its texts are as they were written, maybe by another release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Unique id, never reused.
    pub uid: Uuid,
    /// When it was done.
    pub create_time: DateTime<Utc>,
    /// How often: more than once only for reads of one secret by one caller in an hour.
    pub count: i64,
    /// When it was last done.
    pub last_time: DateTime<Utc>,
    /// The name of an [`Effect`].
    pub effect: String,
    /// Who did it.
    pub principal: String,
    /// From where; empty for what Howdah does by itself.
    pub peer: String,
    /// Method that was called.
    pub method: String,
    /// Resource that was changed, or whose secret it is.
    pub resource: String,
    /// The caller's id of the request; empty without one.
    pub request_id: String,
    /// Name of the operation that was accepted; empty without one.
    pub operation: String,
    /// Trace that the call belongs to.
    pub trace_id: String,
    /// The request, bounded and without secrets.
    pub request: String,
    /// The name of an [`Outcome`].
    pub result: String,
}
