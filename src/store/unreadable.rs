//! Rows that another release has written and this one cannot read. Each is logged once.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::domain::recorded::{Recorded, Unreadable};

/// Most rows that are remembered as logged. Beyond that all of them are forgotten.
const MOST: usize = 10_000;

/// The value of a row, or the name of the column that cannot be read.
pub(super) type Readable<T> = Result<T, &'static str>;

/// Parses a JSON document of a column.
pub(super) fn json<T: DeserializeOwned>(column: &'static str, text: &str) -> Readable<T> {
    serde_json::from_str(text).map_err(|_| column)
}

/// The result for a record that cannot be read. Logs it the first time.
pub(super) fn found_unreadable<T>(unreadable: Unreadable) -> Recorded<T> {
    if is_news(unreadable.uid, unreadable.column) {
        tracing::warn!(
            name = unreadable.name,
            column = unreadable.column,
            "a record of another release cannot be read and is left alone"
        );
    }
    Recorded::Unreadable(Box::new(unreadable))
}

/// Whether this is the first time that this column of this row cannot be read.
pub(super) fn is_news(uid: Uuid, column: &'static str) -> bool {
    static LOGGED: Mutex<Option<HashSet<(Uuid, &'static str)>>> = Mutex::new(None);
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    let logged = logged.get_or_insert_default();
    if logged.len() >= MOST {
        logged.clear();
    }
    logged.insert((uid, column))
}
