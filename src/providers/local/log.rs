//! Reads what a server has written to its logs since a given moment.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::directory::Directory;
use crate::domain::Result;

/// Most bytes that are read of one log file.
const MOST: u64 = 16 * 1024;

/// File for the messages before the server's log collector runs.
pub(crate) const STARTUP: &str = "startup.log";

/// Directory of the log collector's files.
pub(crate) const DIRECTORY: &str = "log";

/// Most log files that are read. A server has seven; a user may put more into the directory.
const FILES: usize = 16;

/// The lengths of the log files at one moment.
#[derive(Debug)]
pub(crate) struct Mark {
    home: PathBuf,
    /// Inode and length by file name.
    lengths: HashMap<String, (u64, u64)>,
}

impl Mark {
    /// Records the present ends of the logs of the server at `home`.
    pub(crate) fn here(home: &Path) -> Self {
        let lengths = files(home).into_iter().filter_map(|(name, file)| {
            let facts = file.metadata().ok()?;
            Some((name, (facts.ino(), facts.len())))
        });
        Self {
            home: home.to_owned(),
            lengths: lengths.collect(),
        }
    }

    /// What was written since, at most [`MOST`] bytes of each file. Show it in Howdah's log
    /// only: it may contain statements of users.
    pub(crate) fn since(&self) -> String {
        let mut text = String::new();
        for (name, file) in files(&self.home) {
            let (inode, from) = self.lengths.get(&name).copied().unwrap_or_default();
            text.push_str(&read(file, inode, from).unwrap_or_default());
        }
        text
    }
}

/// Opens the log files through the handle of the home. The server's user may have put symbolic
/// links, or any number of files, in their place.
fn files(home: &Path) -> Vec<(String, File)> {
    let Ok(Some(home)) = Directory::below(home) else {
        return Vec::new();
    };
    let open = |directory: &Directory, name: String| {
        let file = directory.file(&name).ok()??;
        Some((name, file))
    };
    let mut files: Vec<_> = open(&home, STARTUP.to_owned()).into_iter().collect();
    if let Ok(Some(directory)) = home.child(DIRECTORY) {
        let names = rotated(&directory).unwrap_or_default().into_iter();
        files.extend(names.filter_map(|name| open(&directory, name)));
    }
    files
}

/// Names of the log collector's files in alphabetical order, at most [`FILES`].
pub(crate) fn rotated(directory: &Directory) -> Result<Vec<String>> {
    let mut names = directory.names()?;
    names.retain(|name| name.starts_with("postgresql-"));
    names.sort();
    names.truncate(FILES);
    Ok(names)
}

/// Reads a log after its first `from` bytes; from its beginning if the file was replaced or
/// truncated.
fn read(mut file: File, inode: u64, from: u64) -> Option<String> {
    let facts = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
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
    use std::{fs, io::Write};

    use super::*;

    #[test]
    fn shows_only_what_is_new() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("server");
        let log = home.join(DIRECTORY);
        fs::create_dir_all(&log).unwrap();
        let path = log.join("postgresql-Mon.log");
        fs::write(&path, "old\n").unwrap();
        let mark = Mark::here(&home);
        assert_eq!(mark.since(), "");
        let mut file = File::options().append(true).open(path).unwrap();
        file.write_all(b"new\n").unwrap();
        fs::write(home.join(STARTUP), "start\n").unwrap();
        assert_eq!(mark.since(), "start\nnew\n");
    }

    /// The server's user may replace the directory by a link, while Howdah may run as root.
    #[test]
    fn no_link_is_followed_and_files_are_bounded() {
        let root = tempfile::tempdir().unwrap();
        let (home, secret) = (root.path().join("server"), root.path().join("secret"));
        fs::create_dir(&secret).unwrap();
        fs::write(secret.join("postgresql-Mon.log"), "secret\n").unwrap();
        fs::create_dir(&home).unwrap();
        std::os::unix::fs::symlink(&secret, home.join(DIRECTORY)).unwrap();
        let mark = Mark::here(&home);
        assert_eq!(mark.since(), "");
        fs::remove_file(home.join(DIRECTORY)).unwrap();
        fs::create_dir(home.join(DIRECTORY)).unwrap();
        for number in 0..100 {
            let name = format!("postgresql-{number:03}.log");
            fs::write(home.join(DIRECTORY).join(name), "line\n").unwrap();
        }
        assert_eq!(mark.since().lines().count(), FILES);
    }
}
