//! Rows of another release; each is logged once.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::domain::recorded::{Recorded, Unreadable};

/// Most rows that are remembered as logged; beyond it they are forgotten together.
const MOST: usize = 10_000;

/// What a row says, or the column of it that cannot be read.
pub(super) type Readable<T> = Result<T, &'static str>;

/// A document of a column.
pub(super) fn json<T: DeserializeOwned>(column: &'static str, text: &str) -> Readable<T> {
    serde_json::from_str(text).map_err(|_| column)
}

/// A record that cannot be read. It is logged the first time.
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

/// Whether that row was not found unreadable before, in that column.
pub(super) fn is_news(uid: Uuid, column: &'static str) -> bool {
    static LOGGED: Mutex<Option<HashSet<(Uuid, &'static str)>>> = Mutex::new(None);
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    let logged = logged.get_or_insert_default();
    if logged.len() >= MOST {
        logged.clear();
    }
    logged.insert((uid, column))
}
