//! The whole table of faults between Howdah and its metadata, in an order by chance.

use std::time::Instant;

use super::{Numbers, deadline, seed};
use crate::service::metadata::table::{ROWS, Row, Table};

#[tokio::test(flavor = "multi_thread")]
async fn table() {
    let only = std::env::var("HOWDAH_SOAK_ONLY").unwrap_or_default();
    let mut rows: Vec<&'static Row> = ROWS.iter().collect();
    rows.retain(|row| row.name.contains(&only));
    if rows.is_empty() {
        // The name of another table's row.
        return;
    }
    shuffle(&mut rows, &mut Numbers(seed()));
    let end = deadline();
    let mut table = Table::default();
    for row in rows {
        table.run(row).await;
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
    }
    table.finish();
}

/// Every order is as likely as any other (Fisher and Yates).
fn shuffle<T>(items: &mut [T], numbers: &mut Numbers) {
    for last in (1..items.len()).rev() {
        items.swap(last, numbers.below(last + 1));
    }
}
