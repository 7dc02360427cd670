//! TCP ports for the servers of tests. They lie below those that Linux lends to
//! outgoing connections, and none is given twice in a run: nobody takes the port of a
//! server that is stopped for a moment.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// A port that nothing listens on.
pub fn one() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let port = FIRST + (place(&NEXT) % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free from {FIRST} on")
}

/// A range for a process that chooses by itself, as its settings have it.
pub fn range() -> String {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    const WIDTH: u32 = 40;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = FIRST + place(&NEXT) % (COUNT / WIDTH) * WIDTH;
    format!("{first}-{}", first + WIDTH - 1)
}

/// The next number, counted from one that other runs hardly have.
fn place(next: &AtomicU32) -> u32 {
    let run = std::process::id().wrapping_mul(61);
    run.wrapping_add(next.fetch_add(1, Ordering::Relaxed))
}
