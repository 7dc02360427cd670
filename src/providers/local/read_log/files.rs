//! The files of a server's log, in the order in which they were begun.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
};

use super::super::{
    control::DATA,
    directory::Directory,
    failure,
    log::{DIRECTORY, rotated},
};
use crate::domain::{Result, server_log::Position};

/// The log collector gives a file the English name of its day: `log_filename` is
/// `postgresql-%a.log`. 1 January 1970 was a Thursday.
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const WEEK: u64 = 7;
const SECONDS_OF_DAY: i64 = 86_400;

/// File in which PostgreSQL keeps the name of the file that it writes to.
const CURRENT: &str = "current_logfiles";

/// A file of the log.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds of its last change.
    pub(super) changed: (i64, i64),
    /// The day that the file is of, in days since 1970. Its number rises from file to file,
    /// and by 7 when the file is begun anew.
    pub(super) order: u64,
}

impl Log {
    pub(super) fn open(directory: &Directory, name: &str) -> Result<Option<Self>> {
        let Some(file) = directory.file(name)? else {
            return Ok(None);
        };
        let facts = file.metadata();
        let facts = facts.map_err(|error| failure::file(error, directory.path()))?;
        Ok(facts.is_file().then(|| Self {
            file,
            inode: facts.ino(),
            length: facts.len(),
            changed: (facts.mtime(), facts.mtime_nsec()),
            order: u64::try_from(day(name, facts.mtime())).unwrap_or_default(),
        }))
    }

    /// Bytes that it had when it was opened.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// At most `most` bytes from `offset` on, also those that were written just now.
    pub(super) fn bytes(&mut self, offset: u64, most: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(offset))?;
        let file = std::io::Read::by_ref(&mut self.file);
        file.take(most as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A position in it.
    pub(super) fn at(&self, offset: u64) -> Position {
        Position {
            order: self.order,
            file: self.inode,
            offset,
        }
    }

    /// Whether a position is one in this file, which was not begun anew since.
    pub(super) fn is_of(&self, position: Position) -> bool {
        self.inode == position.file
            && self.order <= position.order
            && self.length >= position.offset
    }
}

/// The rotated files, the oldest first.
pub(super) fn present(home: &Directory) -> Result<Vec<Log>> {
    let Some(directory) = home.child(DIRECTORY)? else {
        return Ok(Vec::new());
    };
    let current = current(home);
    let (mut logs, mut newest) = (Vec::new(), None);
    for name in rotated(&directory)? {
        // A link or something else that is no file is skipped.
        let Ok(Some(log)) = Log::open(&directory, &name) else {
            continue;
        };
        if current.as_deref() == Some(&name) {
            newest = Some(log.order);
        }
        logs.push(log);
    }
    if let Some(newest) = newest {
        // Whatever the times of the others say.
        for log in &mut logs {
            let weeks = log.order.saturating_sub(newest).div_ceil(WEEK);
            log.order = log.order.saturating_sub(weeks * WEEK);
        }
    }
    logs.sort_by_key(|log| (log.order, log.changed));
    Ok(logs)
}

/// The day that a file is of: of the days with its name the one next to its last change. A
/// clock that was set back, or another time zone, changes nothing in that.
fn day(name: &str, changed: i64) -> i64 {
    let last = changed.div_euclid(SECONDS_OF_DAY);
    let named = DAYS
        .iter()
        .position(|day| name == format!("postgresql-{day}.log"));
    let Some(named) = named.and_then(|day| i64::try_from(day).ok()) else {
        return last;
    };
    match (named - last).rem_euclid(7) {
        ahead @ 0..=3 => last + ahead,
        ahead => last + ahead - 7,
    }
}

/// The file that the server writes to, or wrote to when it ended.
fn current(home: &Directory) -> Option<String> {
    let bytes = home.child(DATA).ok()??.read(CURRENT).ok()??;
    let text = String::from_utf8_lossy(&bytes);
    let path = text.lines().find_map(|line| line.strip_prefix("stderr "))?;
    path.rsplit('/').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_of_the_day_that_it_is_named_after() {
        // Monday, 30 November 2026.
        let monday = 20_787;
        let noon = monday * SECONDS_OF_DAY + SECONDS_OF_DAY / 2;
        for (name, expected) in [
            ("postgresql-Mon.log", monday),
            ("postgresql-Tue.log", monday + 1),
            ("postgresql-Thu.log", monday + 3),
            ("postgresql-Fri.log", monday - 3),
            ("postgresql-Sun.log", monday - 1),
            ("postgresql-mine.log", monday),
        ] {
            assert_eq!(day(name, noon), expected, "{name}");
        }
    }
}
