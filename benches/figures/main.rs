//! The figures that Howdah is held to, each as a ratio against the bare alternative
//! in the same run: `make bench`. Nothing here judges; it prints a table.
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
    let wanted = |name: &str| only.is_none_or(|only| only == name);
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
    table.print();
}
