//! Reads parts of a server's log for users.
//!
//! The log collector writes one file per weekday and truncates it a week later. Before the
//! collector runs, messages go to `startup.log`. That file is shown only while it is newer than
//! the others, which is the case after a start that failed.

mod files;
mod lines;

use std::path::Path;

use self::{
    files::Log,
    lines::{MOST, Page, tail},
};
use super::{directory::Directory, failure, log::STARTUP};
use crate::domain::{
    Result,
    server_log::{Begin, Part, Position},
};

/// A part of the log of the server at `home`.
///
/// # Errors
/// DATA_DIR_UNWRITABLE when the log cannot be read.
pub(super) fn read(home: &Path, begin: Begin) -> Result<Part> {
    let Some(home) = Directory::below(home)? else {
        return Ok(Part::default());
    };
    let mut logs = files::present(&home)?;
    let read = match begin {
        Begin::Last(lines) => {
            let startup = Log::open(&home, STARTUP)?;
            last(&mut logs, startup, lines)
        }
        Begin::At(position) => after(&mut logs, position),
    };
    read.map_err(|error| failure::file(error, home.path()))
}

/// The last lines of all files together, which are in their order.
fn last(logs: &mut [Log], startup: Option<Log>, most: usize) -> std::io::Result<Part> {
    let newest = logs.iter().map(|log| log.changed).max();
    // From the last line on.
    let mut lines: Vec<String> = Vec::new();
    let mut next = None;
    if let Some(mut startup) =
        startup.filter(|startup| newest.is_none_or(|at| startup.changed > at))
    {
        let (said, _) = tail(&mut startup, true)?;
        lines.extend(said.into_iter().rev());
    }
    for log in logs.iter_mut().rev() {
        if next.is_some() && (lines.len() >= most || bytes(&lines) >= MOST) {
            break;
        }
        // Nothing is added to a file after which another one was begun.
        let (said, end) = tail(log, next.is_some())?;
        lines.extend(said.into_iter().rev());
        next.get_or_insert(log.at(end));
    }
    let mut left = MOST;
    let fits = |line: &String| {
        let fits = line.len() <= left;
        left = left.saturating_sub(line.len() + 1);
        fits
    };
    let mut lines: Vec<String> = lines.into_iter().take(most).take_while(fits).collect();
    lines.reverse();
    Ok(Part {
        lines,
        next: next.unwrap_or_default(),
    })
}

fn bytes(lines: &[String]) -> usize {
    lines.iter().map(|line| line.len() + 1).sum()
}

/// What was written after a position. If the file of the position is gone, the newest file is
/// read from its beginning.
fn after(logs: &mut [Log], position: Position) -> std::io::Result<Part> {
    let place = logs.iter().position(|log| log.is_of(position));
    let later = || logs.iter().position(|log| log.order >= position.order);
    let newest = logs.len().checked_sub(1);
    let Some((begin, newest)) = place.or_else(later).or(newest).zip(newest) else {
        let lines = Vec::new();
        return Ok(Part {
            lines,
            next: position,
        });
    };
    let mut page = Page::default();
    let mut next = position;
    for (index, log) in logs.iter_mut().enumerate().skip(begin) {
        let offset = match place == Some(index) {
            true => position.offset,
            false => 0,
        };
        let (taken, whole) = page.take(log, offset, index < newest)?;
        next = log.at(offset + taken);
        if !whole {
            break;
        }
    }
    Ok(Part {
        lines: page.lines,
        next,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::Write as _,
        time::{Duration, SystemTime},
    };

    use super::{super::log::DIRECTORY, *};

    const DAY: u64 = 86_400;

    /// Noon of Monday, 30 November 2026, in seconds since 1970.
    const MONDAY: u64 = 20_787 * DAY + DAY / 2;

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
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(MONDAY + seconds);
            file.set_modified(time).unwrap();
        }

        /// Begins a file anew, as the collector does a week later.
        fn begin_anew(&self, name: &str, text: &[u8], seconds: u64) {
            fs::write(self.home().join(name), "").unwrap();
            self.write(name, text, seconds);
        }

        /// Reads on to the end, in parts; all lines.
        fn rest(&self, mut position: Position) -> Vec<String> {
            let mut lines = Vec::new();
            loop {
                let part = self.read(Begin::At(position));
                let size: usize = part.lines.iter().map(String::len).sum();
                assert!(size <= MOST, "{size}");
                if part.lines.is_empty() {
                    return lines;
                }
                lines.extend(part.lines);
                position = part.next;
            }
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

        // Somebody has emptied the file.
        place.begin_anew("log/postgresql-Tue.log", b"f\n", 5);
        let again = place.read(Begin::At(Position {
            offset: 1000,
            ..more.next
        }));
        assert_eq!(again.lines, ["f"]);
    }

    #[test]
    fn a_file_that_was_begun_anew_is_read_after_the_others() {
        let place = Place::new();
        place.write("log/postgresql-Mon.log", b"a\n", 0);
        let first = place.read(Begin::Last(9));
        place.write("log/postgresql-Mon.log", b"b\n", 1);
        place.write("log/postgresql-Tue.log", b"c\n", DAY);
        // Longer than what was read of it a week ago.
        place.begin_anew("log/postgresql-Mon.log", b"d\ne\n", 7 * DAY);
        assert_eq!(place.rest(first.next), ["c", "d", "e"]);
        assert_eq!(place.read(Begin::Last(9)).lines, ["c", "d", "e"]);
    }

    #[test]
    fn the_order_is_that_of_the_days() {
        let place = Place::new();
        place.write("log/postgresql-Mon.log", b"a\n", 11 * 3600);
        let first = place.read(Begin::Last(9));
        // The clock is set back at midnight.
        place.write("log/postgresql-Tue.log", b"b\n", 10 * 3600);
        assert_eq!(place.rest(first.next), ["b"]);
        assert_eq!(place.read(Begin::Last(9)).lines, ["a", "b"]);
        // Not written to in this week.
        place.write("log/postgresql-Wed.log", b"old\n", 0);
        let path = place.home().join("log/postgresql-Wed.log");
        let file = File::options().append(true).open(path).unwrap();
        let week_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(MONDAY - 5 * DAY);
        file.set_modified(week_ago).unwrap();
        assert_eq!(place.rest(first.next), ["b"]);
        assert_eq!(place.read(Begin::Last(9)).lines, ["old", "a", "b"]);
    }

    /// All files were copied without their times.
    #[test]
    fn the_file_that_is_written_to_is_the_newest() {
        let place = Place::new();
        for (day, line) in [("Sat", "a"), ("Sun", "b"), ("Mon", "c"), ("Wed", "old")] {
            let name = format!("log/postgresql-{day}.log");
            place.write(&name, format!("{line}\n").as_bytes(), 0);
        }
        assert_eq!(place.read(Begin::Last(9)).lines, ["a", "b", "c", "old"]);
        fs::create_dir(place.home().join("data")).unwrap();
        let current = place.home().join("data/current_logfiles");
        fs::write(current, "stderr ../log/postgresql-Mon.log\n").unwrap();
        assert_eq!(place.read(Begin::Last(9)).lines, ["old", "a", "b", "c"]);
    }

    /// Lines before and after a change of file, each in one piece, wherever a part ends.
    #[test]
    fn no_line_is_cut_or_lost_at_a_change_of_file() {
        let place = Place::new();
        let first = place.read(Begin::Last(9)).next;
        let line = |letter: u8, length| vec![letter; length];
        let lines = [
            line(b'a', 200 * 1024),
            line(b'b', 100 * 1024),
            b"c".to_vec(),
        ];
        place.write("log/postgresql-Mon.log", &lines[0], 0);
        place.write("log/postgresql-Mon.log", b"\n", 0);
        place.write("log/postgresql-Tue.log", &lines[1], DAY);
        place.write("log/postgresql-Tue.log", b"\n", DAY);
        // Ended by a crash of the machine.
        place.write("log/postgresql-Tue.log", &lines[2], DAY);
        place.write("log/postgresql-Wed.log", b"d\n", 2 * DAY);
        let read = place.rest(first);
        let lengths: Vec<usize> = read.iter().map(String::len).collect();
        assert_eq!(lengths, [200 * 1024, 100 * 1024, 1, 1]);
        assert_eq!(place.read(Begin::Last(2)).lines, ["c", "d"]);
    }

    /// What is no UTF-8 takes three bytes for one as text.
    #[test]
    fn a_part_is_bounded_as_text() {
        let place = Place::new();
        let first = place.read(Begin::Last(9)).next;
        for length in [100_000, 50_000, 10] {
            place.write("log/postgresql-Mon.log", &vec![0xff; length], 0);
            place.write("log/postgresql-Mon.log", b"\n", 0);
        }
        let lengths = |lines: &[String]| -> Vec<usize> { lines.iter().map(String::len).collect() };
        let read = lengths(&place.rest(first));
        assert_eq!(read.iter().sum::<usize>(), 3 * 150_010);
        assert_eq!(read[2..], [150_000, 30], "{read:?}");
        let last = place.read(Begin::Last(9));
        assert_eq!(lengths(&last.lines), [150_000, 30]);
        // Characters of two bytes, of which the bound would cut one.
        let place = Place::new();
        place.write("log/postgresql-Mon.log", b"x", 0);
        place.write(
            "log/postgresql-Mon.log",
            "\u{e4}".repeat(MOST).as_bytes(),
            0,
        );
        place.write("log/postgresql-Mon.log", b"\n", 0);
        let pieces = place.rest(first).concat();
        assert_eq!(pieces, format!("x{}", "\u{e4}".repeat(MOST)));
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
