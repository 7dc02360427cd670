//! What the process takes of its machine, as `/proc` has it.

use std::fs;

use opentelemetry::{KeyValue, metrics::Meter};
use rustix::param::{clock_ticks_per_second, page_size};

use super::names;

/// A look at `/proc/self/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    /// Ticks of the processor in user mode, and in the kernel.
    ticks: [u64; 2],
    threads: u64,
    /// Ticks from the start of the machine to that of the process.
    start_ticks: u64,
    pages: u64,
}

/// Makes the instruments. They look when they are read.
pub(super) fn install(meter: &Meter) {
    meter
        .f64_observable_counter(names::PROCESS_CPU_TIME)
        .with_unit("s")
        .with_description("Time of the processor that the process has used.")
        .with_callback(|observer| {
            let Some(look) = look() else { return };
            for (ticks, mode) in look.ticks.into_iter().zip(["user", "system"]) {
                let mode = KeyValue::new(names::CPU_MODE, mode);
                observer.observe(seconds(ticks), &[mode]);
            }
        })
        .build();
    meter
        .u64_observable_gauge(names::PROCESS_MEMORY_USAGE)
        .with_unit("By")
        .with_description("Memory of the process that is resident (RSS).")
        .with_callback(|observer| {
            if let Some(look) = look() {
                let page = u64::try_from(page_size()).unwrap_or_default();
                observer.observe(look.pages.saturating_mul(page), &[]);
            }
        })
        .build();
    meter
        .u64_observable_gauge(names::PROCESS_THREAD_COUNT)
        .with_unit("{thread}")
        .with_description("Threads of the process.")
        .with_callback(|observer| {
            if let Some(look) = look() {
                observer.observe(look.threads, &[]);
            }
        })
        .build();
    meter
        .u64_observable_gauge(names::PROCESS_FILE_DESCRIPTOR_COUNT)
        .with_unit("{file_descriptor}")
        .with_description("File descriptors that the process has open.")
        .with_callback(|observer| {
            // One of them is that of the look.
            if let Ok(open) = fs::read_dir("/proc/self/fd") {
                let count = open.count().saturating_sub(1);
                observer.observe(u64::try_from(count).unwrap_or(u64::MAX), &[]);
            }
        })
        .build();
    meter
        .f64_observable_gauge(names::PROCESS_START_TIME)
        .with_unit("s")
        .with_description("When the process was started, in Unix time.")
        .with_callback(|observer| {
            let boot = fs::read_to_string("/proc/stat").ok();
            let boot = boot.as_deref().and_then(boot_time);
            if let (Some(boot), Some(look)) = (boot, look()) {
                observer.observe(boot + seconds(look.start_ticks), &[]);
            }
        })
        .build();
}

fn look() -> Option<Look> {
    parse(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// The line of proc_pid_stat(5). The name in parentheses may hold anything.
fn parse(stat: &str) -> Option<Look> {
    let (_, rest) = stat.rsplit_once(')')?;
    // The first one is the third of the manual page.
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Look {
        ticks: [field(14)?, field(15)?],
        threads: field(20)?,
        start_ticks: field(22)?,
        pages: field(24)?,
    })
}

/// When the machine was started, from proc_stat(5).
fn boot_time(stat: &str) -> Option<f64> {
    let mut lines = stat.lines();
    lines.find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

#[expect(clippy::cast_precision_loss, reason = "exact for millions of years")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_no_field() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 900 0 3 0 1200 34 0 0 20 0 11 0 5566 \
            1000000 2048 18446744073709551615 1";
        let look = Look {
            ticks: [1200, 34],
            threads: 11,
            start_ticks: 5566,
            pages: 2048,
        };
        assert_eq!(parse(stat), Some(look));
        assert_eq!(parse("7 (a) S 1"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1.7e9));
    }

    #[test]
    fn the_own_process_can_be_looked_at() {
        let look = look().unwrap();
        assert!(
            look.threads > 0 && look.pages > 0 && look.start_ticks > 0,
            "{look:?}"
        );
    }
}
