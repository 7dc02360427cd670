//! What a server wrote to its logs since a certain moment.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Most that is read of one log.
const MOST: u64 = 16 * 1024;

/// File of what the server writes before its log collector runs.
pub(crate) const STARTUP: &str = "startup.log";

/// Directory of the rotated logs.
pub(crate) const DIRECTORY: &str = "log";

/// A moment in the logs.
#[derive(Debug)]
pub(crate) struct Mark {
    home: PathBuf,
    lengths: HashMap<PathBuf, (u64, u64)>,
}

impl Mark {
    /// The present end of the logs of the server at `home`.
    pub(crate) fn here(home: &Path) -> Self {
        let lengths = files(home).into_iter().filter_map(|path| {
            let facts = fs::symlink_metadata(&path).ok()?;
            Some((path, (facts.ino(), facts.len())))
        });
        Self {
            home: home.to_owned(),
            lengths: lengths.collect(),
        }
    }

    /// The end of what was written since. For the log only: statements of users may
    /// stand in it.
    pub(crate) fn since(&self) -> String {
        let mut text = String::new();
        for path in files(&self.home) {
            let (inode, from) = self.lengths.get(&path).copied().unwrap_or_default();
            text.push_str(&read(&path, inode, from).unwrap_or_default());
        }
        text
    }
}

fn files(home: &Path) -> Vec<PathBuf> {
    let mut files = vec![home.join(STARTUP)];
    if let Ok(entries) = fs::read_dir(home.join(DIRECTORY)) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files
}

/// What a log holds after its first `from` bytes, if it is still that file.
fn read(path: &Path, inode: u64, from: u64) -> Option<String> {
    let mut file = File::options()
        .read(true)
        .custom_flags(
            (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK)
                .bits()
                .cast_signed(),
        )
        .open(path)
        .ok()?;
    let facts = file.metadata().ok()?;
    let same = facts.ino() == inode && facts.len() >= from;
    let start = if same { from } else { 0 };
    let start = start.max(facts.len().saturating_sub(MOST));
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn shows_only_what_is_new() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join(DIRECTORY);
        fs::create_dir(&log).unwrap();
        fs::write(log.join("a.log"), "old\n").unwrap();
        let mark = Mark::here(home.path());
        assert_eq!(mark.since(), "");
        let mut file = File::options()
            .append(true)
            .open(log.join("a.log"))
            .unwrap();
        file.write_all(b"new\n").unwrap();
        fs::write(home.path().join(STARTUP), "start\n").unwrap();
        assert_eq!(mark.since(), "start\nnew\n");
    }
}
