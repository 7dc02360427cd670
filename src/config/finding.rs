//! What `howdah doctor` finds.

use serde::Serialize;

/// The outcome of one check of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a few words: `data directory`.
    pub check: String,
    /// How it stands.
    pub status: Status,
    /// What was found.
    pub message: String,
    /// What to type or change; empty when all is well.
    pub remedy: String,
}

/// How a check came out, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Not looked at, because something else is not there or does not run.
    Skip,
    /// Howdah serves, but something is worth a look.
    Warn,
    /// `howdah serve` would fail or could do nothing useful.
    Fail,
}

impl Finding {
    /// All is well.
    pub fn ok(check: &str, message: impl Into<String>) -> Self {
        Self::new(check, Status::Ok, message, "")
    }

    /// Not looked at.
    pub fn skip(check: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, Status::Skip, message, remedy)
    }

    /// Worth a look.
    pub fn warn(check: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, Status::Warn, message, remedy)
    }

    /// In the way of serving.
    pub fn fail(check: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, Status::Fail, message, remedy)
    }

    fn new(
        check: &str,
        status: Status,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            check: check.to_owned(),
            status,
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}
