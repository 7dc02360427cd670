//! Durations as text: `500ms`, `15s`, `10m`, `1h30m`, `30d`.

use std::{borrow::Cow, ops::RangeInclusive, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Units from the largest, each with its length in milliseconds.
const UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Of a wait for an answer: shorter, and a machine that pauses would miss each; longer,
/// and whoever waits takes it for hung.
pub(super) const WAIT: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;

/// Of a time for which something is kept: with ten years, sums with the present time stay
/// within the range of every clock, date and interval here and in PostgreSQL.
pub(super) const KEPT: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(3650 * 86_400);

/// The longest wait.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// Reads a duration: whole numbers, each with a unit of `d`, `h`, `m`, `s`, `ms`.
///
/// # Errors
/// A sentence that says how a duration is written.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration such as 500ms, 15s, 10m or 1h30m");
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at_checked(digits).ok_or_else(wrong)?;
        let letters = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(letters).ok_or_else(wrong)?;
        let (_, length) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        let part = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*length))
            .ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

/// Writes a duration as [`parse`] reads it; parts of a millisecond are dropped.
#[must_use]
pub fn format(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, length) in UNITS {
        let count = rest / length;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            rest %= length;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

pub(super) fn serialize<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Schema of a duration.
pub(super) struct Text;

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "duration",
            "pattern": "^([0-9]+(d|h|m|s|ms))+$"
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_what_it_writes(millis in 0u64..100_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn garbage_never_panics(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }

    #[test]
    fn units_are_needed_and_bounded() {
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
        for text in [
            "",
            "15",
            "s",
            "1.5s",
            "-1s",
            "1w",
            "99999999999999999999s",
            "1s x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
