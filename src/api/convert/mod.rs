//! Between messages and the domain: the last gate for what comes in.

pub(super) mod database;
pub(super) mod instance;
pub(super) mod mutation;
pub(super) mod operation;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use prost_types::Timestamp;

use crate::domain::{Error, Reason, Result};

/// A time on the wire.
pub(super) fn timestamp(time: DateTime<Utc>) -> Timestamp {
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default();
    Timestamp {
        seconds: time.timestamp(),
        nanos,
    }
}

/// Refuses text with U+0000, which protobuf's strings may hold and PostgreSQL's not.
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
