//! Reads parts of a server's log for users.
//!
//! The log collector writes one file per weekday and truncates it a week later. Before the
//! collector runs, messages go to `startup.log`. That file is shown only while it is newer than
//! the others, which is the case after a start that failed.

use std::{
    fs::File,
    io::{Read, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use super::{
    directory::Directory,
    failure,
    log::{DIRECTORY, STARTUP, rotated},
};
use crate::domain::{
    Result,
    server_log::{Begin, Part, Position},
};

/// Most bytes of the log in one part.
const MOST: u64 = 256 * 1024;

/// An open log file.
struct Log {
    file: File,
    inode: u64,
    length: u64,
    /// Time of the last write, in seconds and nanoseconds since 1970.
    changed: (i64, i64),
}

/// Reads a part of the log of the server at `home`.
///
/// # Errors
/// DATA_DIR_UNWRITABLE when the log cannot be read.
pub(super) fn read(home: &Path, begin: Begin) -> Result<Part> {
    let Some(home) = Directory::below(home)? else {
        return Ok(Part::default());
    };
    let mut logs = Vec::new();
    if let Some(directory) = home.child(DIRECTORY)? {
        for name in rotated(&directory)? {
            // Symbolic links and entries that are not files are skipped.
            logs.extend(Log::open(&directory, &name).ok().flatten());
        }
    }
    logs.sort_by_key(|log| log.changed);
    let read = match begin {
        Begin::Last(lines) => {
            let startup = Log::open(&home, STARTUP)?;
            last(&mut logs, startup, lines)
        }
        Begin::At(position) => after(&mut logs, position),
    };
    read.map_err(|error| failure::file(error, home.path()))
}

impl Log {
    fn open(directory: &Directory, name: &str) -> Result<Option<Self>> {
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
        }))
    }

    /// Reads at most `most` bytes from `offset`.
    fn bytes(&mut self, offset: u64, most: u64) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(offset))?;
        Read::by_ref(&mut self.file)
            .take(most)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The complete lines among the last `most` bytes, and the offset where they end.
    fn tail(&mut self, most: u64) -> std::io::Result<(Vec<String>, u64)> {
        let start = self.length.saturating_sub(most);
        let bytes = self.bytes(start, most)?;
        let (lines, taken) = whole_lines(&bytes);
        // The first line may have begun before `start`.
        let skipped = usize::from(start > 0);
        let lines = lines.into_iter().skip(skipped).collect();
        Ok((lines, start + taken as u64))
    }
}

/// The last lines of all files together. `logs` are ordered by their last write.
fn last(logs: &mut [Log], startup: Option<Log>, lines: usize) -> std::io::Result<Part> {
    let newest = logs.last().map(|log| log.changed);
    let mut left = MOST;
    let mut parts = Vec::new();
    let mut found = 0;
    if let Some(mut startup) =
        startup.filter(|startup| newest.is_none_or(|at| startup.changed > at))
    {
        let (said, _) = startup.tail(left)?;
        left = left.saturating_sub(startup.length);
        found += said.len();
        parts.push(said);
    }
    let mut next = None;
    for log in logs.iter_mut().rev() {
        if found >= lines || left == 0 {
            // The limit is reached, but the next part still needs a position.
            next.get_or_insert(Position {
                file: log.inode,
                offset: log.length,
            });
            break;
        }
        let (said, offset) = log.tail(left)?;
        next.get_or_insert(Position {
            file: log.inode,
            offset,
        });
        left = left.saturating_sub(log.length);
        found += said.len();
        parts.push(said);
    }
    let all = parts.into_iter().rev().flatten();
    Ok(Part {
        lines: all.skip(found.saturating_sub(lines)).collect(),
        next: next.unwrap_or_default(),
    })
}

/// What was written after a position. If the file of the position is gone, the newest file is
/// read from its beginning.
fn after(logs: &mut [Log], position: Position) -> std::io::Result<Part> {
    let place = logs.iter().position(|log| log.inode == position.file);
    let begin = place.unwrap_or(logs.len().saturating_sub(1));
    let mut part = Part {
        lines: Vec::new(),
        next: position,
    };
    let mut left = MOST;
    for (index, log) in logs.iter_mut().enumerate().skip(begin) {
        let known = place == Some(index) && position.offset <= log.length;
        // A file that is shorter than the position was truncated and begun anew.
        let offset = if known { position.offset } else { 0 };
        let bytes = log.bytes(offset, left)?;
        let (mut lines, mut taken) = whole_lines(&bytes);
        // A line that is longer than a part is returned in pieces.
        if taken == 0 && bytes.len() as u64 == left {
            lines = vec![String::from_utf8_lossy(&bytes).into_owned()];
            taken = bytes.len();
        }
        part.lines.extend(lines);
        part.next = Position {
            file: log.inode,
            offset: offset + taken as u64,
        };
        left = left.saturating_sub(bytes.len() as u64);
        if left == 0 {
            break;
        }
    }
    Ok(part)
}

/// The complete lines, and the number of bytes that they take.
fn whole_lines(bytes: &[u8]) -> (Vec<String>, usize) {
    let taken = bytes.iter().rposition(|byte| *byte == b'\n');
    let Some(end) = taken else {
        return (Vec::new(), 0);
    };
    let whole = bytes.get(..end).unwrap_or_default();
    let lines = whole.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| String::from_utf8_lossy(line).into_owned());
    (lines.collect(), end + 1)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, time::SystemTime};

    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(place.home().join(DIRECTORY)).unwrap();
            place
        }

        fn home(&self) -> std::path::PathBuf {
            self.0.path().join("server")
        }

        /// Appends to a file, and sets its time of change to that many seconds after 1970.
        fn write(&self, name: &str, text: &[u8], seconds: u64) {
            let mut options = File::options();
            let path = self.home().join(name);
            let mut file = options.append(true).create(true).open(path).unwrap();
            file.write_all(text).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            file.set_modified(time).unwrap();
        }

        fn read(&self, begin: Begin) -> Part {
            read(&self.home(), begin).unwrap()
        }
    }

    #[test]
    fn parts_go_on_where_the_former_ended() {
        let place = Place::new();
        assert_eq!(place.read(Begin::Last(5)), Part::default());
        place.write("startup.log", b"starting\n", 1);
        place.write("log/postgresql-Mon.log", b"a\nb\nc\nhal", 2);
        place.write("log/other", b"not shown\n", 9);
        let first = place.read(Begin::Last(2));
        assert_eq!(first.lines, ["b", "c"]);
        let none = place.read(Begin::At(first.next));
        assert_eq!((none.lines.len(), none.next), (0, first.next));

        place.write("log/postgresql-Mon.log", b"f\nd\n", 3);
        place.write("log/postgresql-Tue.log", b"e\n", 4);
        let more = place.read(Begin::At(first.next));
        assert_eq!(more.lines, ["half", "d", "e"]);
        assert_eq!(place.read(Begin::Last(3)).lines, ["half", "d", "e"]);
        assert!(place.read(Begin::At(more.next)).lines.is_empty());

        // A week later the log collector truncates the file.
        fs::write(place.home().join("log/postgresql-Tue.log"), "").unwrap();
        place.write("log/postgresql-Tue.log", b"f\n", 5);
        let again = place.read(Begin::At(Position {
            offset: 1000,
            ..more.next
        }));
        assert_eq!(again.lines, ["f"]);
    }

    #[test]
    fn a_start_that_fails_is_shown() {
        let place = Place::new();
        place.write("startup.log", b"FATAL\n", 1);
        assert_eq!(place.read(Begin::Last(9)).lines, ["FATAL"]);
        place.write("log/postgresql-Mon.log", b"ready\n", 2);
        assert_eq!(place.read(Begin::Last(9)).lines, ["ready"]);
        place.write("startup.log", b"again\n", 3);
        let lines = place.read(Begin::Last(9)).lines;
        assert_eq!(lines, ["ready", "FATAL", "again"]);
        assert_eq!(place.read(Begin::Last(1)).lines, ["again"]);
    }

    #[test]
    fn parts_are_bounded() {
        let place = Place::new();
        let line = [b'x'; 300 * 1024];
        place.write("log/postgresql-Mon.log", b"a\xff\n", 1);
        let first = place.read(Begin::Last(9));
        assert_eq!(first.lines, ["a\u{fffd}"]);
        place.write("log/postgresql-Mon.log", &line, 2);
        place.write("log/postgresql-Mon.log", b"\nb\n", 2);
        let pieces = place.read(Begin::At(first.next));
        assert_eq!(pieces.lines[0].len(), 256 * 1024);
        let rest = place.read(Begin::At(pieces.next));
        assert_eq!(rest.lines[0].len(), 44 * 1024);
        assert_eq!(rest.lines[1], "b");
        // A line whose beginning was not read is left out.
        assert_eq!(place.read(Begin::Last(9)).lines, ["b"]);
    }

    #[test]
    fn no_link_is_followed() {
        let place = Place::new();
        let link = place.home().join("log/postgresql-Mon.log");
        std::os::unix::fs::symlink("/etc/passwd", link).unwrap();
        assert_eq!(place.read(Begin::Last(9)), Part::default());
    }
}
