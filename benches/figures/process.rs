//! The process itself: how long it takes to serve, and what it holds when idle.

use std::time::{Duration, Instant};

use crate::{
    ROUNDS,
    support::howdah::{Howdah, Options},
    table::Table,
};

pub async fn measure(table: &mut Table) {
    let mut howdah = Howdah::new(Options::default());
    // Makes the metadata, which the measured starts find.
    howdah.start("").await;
    let (mut stopped, mut running, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // SIGTERM stops the metadata server too.
        howdah.stop().await;
        stopped.push(start(&mut howdah).await);
        // SIGKILL leaves it running.
        howdah.kill().await;
        running.push(start(&mut howdah).await);
        tokio::time::sleep(Duration::from_secs(3)).await;
        memory.push(resident_mib(howdah.pid()));
    }
    let how = "embedded metadata, from exec to the endpoint file";
    table.alone(
        "start, metadata server stopped",
        &stopped,
        "s",
        "<= 0.5",
        how,
    );
    table.alone(
        "start, metadata server running",
        &running,
        "s",
        "<= 0.2",
        how,
    );
    table.alone(
        "idle memory (RSS)",
        &memory,
        "MiB",
        "<= 40",
        "3 s after the start",
    );
}

async fn start(howdah: &mut Howdah) -> f64 {
    let begin = Instant::now();
    howdah.start("").await;
    begin.elapsed().as_secs_f64()
}

/// Resident memory of a process in MiB, from /proc/PID/status.
pub fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}
