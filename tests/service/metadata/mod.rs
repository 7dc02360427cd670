//! A metadata database that is somebody else's: what its network, its server and its
//! settings do, and what callers notice of it.

mod claims;
mod deadlines;
mod full_disk;
mod load;
mod met;
mod moves;
mod open_load;
mod outages;
mod proxy;
mod serving;
mod settings;
mod start;
pub(crate) mod table;
mod world;

use self::table::ROWS;

/// The rows that take a few seconds, for every run of the tests. The whole table is
/// `soak::metadata`.
#[tokio::test(flavor = "multi_thread")]
async fn quick_faults_under_load() {
    let mut table = table::Table::default();
    for row in ROWS.iter().filter(|row| row.quick) {
        table.run(row).await;
    }
    table.finish();
}
