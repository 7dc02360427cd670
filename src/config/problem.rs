//! What is wrong with a setting.

use std::{fmt, ops::RangeInclusive, time::Duration};

use super::{Source, duration};
use crate::domain::{Error, Reason};

/// A rule that a setting breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Key of the setting, such as `tls.certificate`; `config` for the file itself.
    pub key: String,
    /// What is wrong, without the value of a secret.
    pub message: String,
    /// Where the value came from.
    pub source: Option<Source>,
}

impl Problem {
    /// A problem whose source is found out later.
    pub(super) fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
            source: None,
        }
    }

    /// A problem with a value that came from `source`.
    pub(super) fn from(source: Source, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            source: Some(source),
            ..Self::new(key, message)
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.key, self.message)?;
        match &self.source {
            Some(source) => write!(formatter, " (from {source})"),
            None => Ok(()),
        }
    }
}

/// All problems as one CONFIG_INVALID.
pub fn error(problems: &[Problem]) -> Error {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    let error = Error::new(Reason::ConfigInvalid, lines.join("\n"));
    match problems {
        [problem] => error.with_field(problem.key.clone()),
        _ => error,
    }
}

/// Adds a problem with `key` unless `holds`.
pub(super) fn require(problems: &mut Vec<Problem>, holds: bool, key: &str, message: &str) {
    if !holds {
        problems.push(Problem::new(key, message));
    }
}

/// Adds a problem with `key` unless the duration lies in `range`.
pub(super) fn bound(
    problems: &mut Vec<Problem>,
    key: &str,
    value: Duration,
    range: &RangeInclusive<Duration>,
) {
    if range.contains(&value) {
        return;
    }
    let [value, least, most] = [value, *range.start(), *range.end()].map(duration::format);
    let message = format!("must be {least} to {most}, not {value}");
    problems.push(Problem::new(key, message));
}
