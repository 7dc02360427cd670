//! Bad input and bad surroundings: each has its own reason, and nothing is changed.

mod conflicts;
mod messages;
mod metadata_away;
mod names;
mod parameters;
mod queries;
mod start_failures;
mod surroundings;

pub(crate) use self::metadata_away::goes_away_for;
