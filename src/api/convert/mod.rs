//! Conversions between messages and the domain. They are the last check of a request.

pub(super) mod audit;
pub(super) mod change_stream;
pub(super) mod database;
pub(super) mod instance;
pub(super) mod operation;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use prost_types::Timestamp;

use crate::domain::{Error, Reason, Result};

/// Converts a time to its message.
pub(super) fn timestamp(time: DateTime<Utc>) -> Timestamp {
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default();
    Timestamp {
        seconds: time.timestamp(),
        nanos,
    }
}

/// Converts a client's duration. None if it is negative or has parts out of range; prost's own
/// conversion may panic for those.
pub(super) fn duration(asked: prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(asked.seconds).ok()?;
    let nanos = u32::try_from(asked.nanos).ok()?;
    (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
}

/// Refuses text with U+0000, which protobuf allows and PostgreSQL does not.
fn refuse_nul(text: &str, field: &str, reason: Reason) -> Result<()> {
    if text.contains('\0') {
        let message = format!("`{field}` must not hold the character U+0000");
        return Err(Error::new(reason, message).with_field(field));
    }
    Ok(())
}

/// The same for the keys and values of a map.
fn refuse_nul_in(map: &BTreeMap<String, String>, field: &str, reason: Reason) -> Result<()> {
    map.iter()
        .flat_map(|(key, value)| [key, value])
        .try_for_each(|text| refuse_nul(text, field, reason))
}

/// Most bytes of the keys and values of all maps of a resource. A page holds at least one
/// resource, and a client that accepts 4 MiB must be able to read it.
const MAP_BYTES: usize = 1024 * 1024;

/// Refuses maps that are too large in total.
///
/// # Errors
/// FIELD_INVALID.
fn refuse_large(maps: &[&BTreeMap<String, String>], field: &str) -> Result<()> {
    let texts = maps.iter().flat_map(|map| map.iter());
    let bytes: usize = texts.map(|(key, value)| key.len() + value.len()).sum();
    if bytes <= MAP_BYTES {
        return Ok(());
    }
    let message = format!(
        "labels, annotations and parameters are {bytes} bytes together; they may be {MAP_BYTES}"
    );
    Err(Error::new(Reason::FieldInvalid, message).with_field(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_of_a_client_is_too_much() {
        let of = |seconds, nanos| duration(prost_types::Duration { seconds, nanos });
        assert_eq!(of(2, 500_000_000), Some(Duration::from_millis(2500)));
        assert_eq!(
            of(i64::MAX, 999_999_999),
            Some(Duration::new(i64::MAX.unsigned_abs(), 999_999_999))
        );
        for (seconds, nanos) in [(i64::MIN, i32::MIN), (-1, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(of(seconds, nanos), None);
        }
    }
}
