//! What a process holds.

use std::fs;

use crate::support::howdah::Howdah;

/// Memory and handles at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Vitals {
    /// Resident memory in bytes.
    pub resident: u64,
    /// Open file descriptors.
    pub handles: usize,
}

impl Vitals {
    pub fn of(howdah: &Howdah) -> Self {
        let process = format!("/proc/{}", howdah.pid());
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
        Self {
            resident: kibibytes.parse::<u64>().unwrap() << 10,
            handles: fs::read_dir(format!("{process}/fd")).unwrap().count(),
        }
    }

    /// The greater of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            resident: self.resident.max(other.resident),
            handles: self.handles.max(other.handles),
        }
    }
}
