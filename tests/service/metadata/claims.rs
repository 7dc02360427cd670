//! Claims of operations whose answers are lost with a connection.

use crate::support::howdah::{Howdah, Options};

/// The claim is on record, and the worker that has it does not know of it. It is given back
/// when the metadata answers again, not when its lease runs out, which is an hour here.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_answer_is_lost_is_given_back() {
    let options = Options::external().await;
    let mut howdah = Howdah::new(options.with("HOWDAH_OPERATIONS_LEASE", "1h"));
    howdah.start("operations.claim.answer=3*return->off").await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    let given_back = "gave back claims whose answers were lost";
    let log = howdah.log();
    let lines = log.lines().filter(|line| line.contains(given_back));
    assert_eq!(lines.count(), 3, "{log}");
}
