//! Directories for servers that live no longer than a test.

use std::{fs, path::Path, sync::LazyLock};

use rustix::fs::{StatVfsMountFlags, statfs, statvfs};
use tempfile::TempDir;

/// Free bytes that the tests of one run need at the same time.
const ROOM: u64 = 4 << 30;

/// `f_type` of a tmpfs (statfs(2)).
const TMPFS: u64 = 0x0102_1994;

/// In memory where there is room: each server is a thousand files, and to make and delete
/// them took a third of the run's CPU on ext4. These servers are killed, and the machine is
/// not, so a disk would prove no more.
///
/// The benchmark, which shares this code, stays on the disk: what it compares with does.
static PLACE: LazyLock<&str> = LazyLock::new(|| match !IS_BENCHMARK && has_room("/dev/shm") {
    true => "/dev/shm",
    false => "/tmp",
});

const IS_BENCHMARK: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"figures");

fn has_room(place: &str) -> bool {
    let (Ok(kind), Ok(facts)) = (statfs(place), statvfs(place)) else {
        return false;
    };
    let programs_run = !facts.f_flag.contains(StatVfsMountFlags::NOEXEC);
    u64::try_from(kind.f_type).is_ok_and(|kind| kind == TMPFS)
        && facts.f_bavail.saturating_mul(facts.f_frsize) >= ROOM
        && programs_run
        && fs::metadata(place).is_ok_and(|facts| facts.is_dir())
}

/// A new directory that is removed when it is dropped.
pub fn directory(prefix: &str) -> TempDir {
    let place = Path::new(*PLACE);
    let made = tempfile::Builder::new().prefix(prefix).tempdir_in(place);
    made.unwrap_or_else(|error| panic!("{}: {error}", place.display()))
}
