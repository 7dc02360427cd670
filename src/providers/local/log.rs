//! What a server wrote to its logs since a certain moment.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::directory::Directory;
use crate::domain::Result;

/// Most that is read of one log.
const MOST: u64 = 16 * 1024;

/// File of what the server writes before its log collector runs.
pub(crate) const STARTUP: &str = "startup.log";

/// Directory of the rotated logs.
pub(crate) const DIRECTORY: &str = "log";

/// Most files of the log that are read. A server has seven; others may be put beside them.
const FILES: usize = 16;

/// A moment in the logs.
#[derive(Debug)]
pub(crate) struct Mark {
    home: PathBuf,
    /// Inode and length of each file.
    lengths: HashMap<String, (u64, u64)>,
}

impl Mark {
    /// The present end of the logs of the server at `home`.
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

    /// The end of what was written since. For the log only: statements of users may
    /// stand in it.
    pub(crate) fn since(&self) -> String {
        let mut text = String::new();
        for (name, file) in files(&self.home) {
            let (inode, from) = self.lengths.get(&name).copied().unwrap_or_default();
            text.push_str(&read(file, inode, from).unwrap_or_default());
        }
        text
    }
}

/// The files of the log, each below the home by handles: the server's user may put links, or
/// any number of files, in their place.
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

/// The names of the rotated files, the first ones in their order if there are too many.
pub(crate) fn rotated(directory: &Directory) -> Result<Vec<String>> {
    let mut names = directory.names()?;
    names.retain(|name| name.starts_with("postgresql-"));
    names.sort();
    names.truncate(FILES);
    Ok(names)
}

/// What a log holds after its first `from` bytes, if it is still that file.
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

    /// The user of the server may replace the directory, while Howdah may be root.
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
