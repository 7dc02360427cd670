//! The figures that Howdah is held to, each as a ratio against the bare alternative
//! in the same run: `make bench`. Nothing here judges; it prints a table.
//!
//! The group `engine` needs the simulated provider, which a build with `failpoints` has.
//! With that feature only it is measured, so that the program of all other figures is
//! the one that is released.
#![expect(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench exports nothing, and a panic is how it fails"
)]

mod bare;
mod calls;
mod claim;
#[cfg(feature = "failpoints")]
mod engine;
mod lists;
mod process;
mod provision;
mod stream;
#[path = "../../tests/support/mod.rs"]
mod support;
mod table;

/// Rounds of each comparison; the two sides take turns.
const ROUNDS: usize = 5;

fn main() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    match arguments.next().as_deref() {
        // This program again, as the bare server that calls are compared with.
        Some("bare-server") => runtime.block_on(bare::serve(&arguments.next().unwrap())),
        only => runtime.block_on(figures(only)),
    }
}

async fn figures(only: Option<&str>) {
    let simulated = cfg!(feature = "failpoints");
    let wanted = |name: &str| only.map_or(simulated == (name == "engine"), |only| only == name);
    let mut table = table::Table::new();
    if wanted("process") {
        process::measure(&mut table).await;
    }
    if wanted("provision") {
        provision::measure(&mut table).await;
    }
    if wanted("calls") {
        calls::measure(&mut table).await;
    }
    if wanted("stream") {
        stream::measure(&mut table).await;
    }
    if wanted("lists") {
        lists::measure(&mut table).await;
    }
    if wanted("claim") {
        claim::measure(&mut table).await;
    }
    #[cfg(feature = "failpoints")]
    if wanted("engine") {
        engine::measure(&mut table).await;
    }
    table.print();
}
