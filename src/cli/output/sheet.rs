//! Tables.

use std::{fmt, io, time::SystemTime};

use comfy_table::{Cell, ColumnConstraint, ContentArrangement, Table, Width, presets};
use rustix::termios::{isatty, tcgetwinsize};

use super::clean;
use crate::domain::clock::{Clock as _, SystemClock};

/// Spaces between two columns.
const GAP: u16 = 2;

/// A table with a header, or names with values.
///
/// A word, such as an id or an address, is never cut: it could not be copied. Where the
/// columns of a table have no room for their longest words, each row is shown as names with
/// values.
pub(in crate::cli) enum Sheet {
    /// Rows below a header.
    Rows(Vec<String>, Vec<Vec<String>>),
    /// Names with values.
    Fields(Vec<(String, String)>),
}

impl Sheet {
    /// A table of rows below `header`.
    pub(in crate::cli) fn rows<const N: usize>(
        header: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Self {
        let rows = rows
            .into_iter()
            .map(|row| row.iter().map(|it| shown(it)).collect());
        Self::Rows(header.map(str::to_owned).to_vec(), rows.collect())
    }

    /// One resource, with a name and a value per line. Empty values are left out.
    pub(in crate::cli) fn fields(fields: impl IntoIterator<Item = (String, String)>) -> Self {
        let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
        Self::Fields(fields.map(|(name, value)| (name, clean(&value))).collect())
    }

    /// The text for a terminal of that many columns, or for a pipe.
    fn text(&self, columns: Option<u16>, headed: bool) -> String {
        match self {
            Self::Rows(header, rows) => match table(header, rows, columns) {
                Some(table) => lines(&table, usize::from(!headed)),
                None => records(header, rows, columns),
            },
            Self::Fields(fields) => pairs(fields, columns),
        }
    }

    /// The first column alone, which says what each row is about.
    pub(in crate::cli) fn names(&self) -> String {
        match self {
            Self::Rows(_, rows) => {
                let names = rows.iter().filter_map(|row| row.first().cloned());
                names.collect::<Vec<_>>().join("\n")
            }
            Self::Fields(_) => self.to_string(),
        }
    }

    /// The same below rows that were printed before: without the header, which has one line
    /// where its names are single words.
    pub(in crate::cli) fn further(&self) -> String {
        self.text(columns(), false)
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text(columns(), true))
    }
}

/// The table, unless a word would have to be cut for its width.
fn table(header: &[String], rows: &[Vec<String>], columns: Option<u16>) -> Option<Table> {
    let mut table = plain(columns);
    table.set_header(header);
    for row in rows {
        table.add_row(row.iter().map(Cell::new));
    }
    if let Some(columns) = columns {
        let mut widths =
            longest_words(std::iter::once(header).chain(rows.iter().map(Vec::as_slice)));
        // The width of a column holds the gap to the next one.
        if let Some((_, before)) = widths.split_last_mut() {
            for width in before {
                *width = width.saturating_add(GAP);
            }
        }
        let least = widths
            .iter()
            .fold(0, |sum: u16, it| sum.saturating_add(*it));
        if least > columns {
            return None;
        }
        for (column, width) in table.column_iter_mut().zip(widths) {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
        }
    }
    Some(spaced(table))
}

/// Rows as names with values, an empty line between two.
fn records(header: &[String], rows: &[Vec<String>], columns: Option<u16>) -> String {
    let record = |row: &Vec<String>| {
        let fields: Vec<(String, String)> =
            header.iter().cloned().zip(row.iter().cloned()).collect();
        pairs(&fields, columns)
    };
    let records: Vec<String> = rows.iter().map(record).collect();
    records.join("\n\n")
}

/// A name and a value a line. A value with a word that has no room beside the names stands
/// on lines of its own.
fn pairs(fields: &[(String, String)], columns: Option<u16>) -> String {
    let widest = fields.iter().map(|(name, _)| name.chars().count()).max();
    let beside = widest.unwrap_or_default() + usize::from(GAP);
    let mut text: Vec<String> = Vec::new();
    for (name, value) in fields {
        let room =
            columns.map(|columns| columns.saturating_sub(u16::try_from(beside).unwrap_or(columns)));
        let word = longest_words([[value.clone()].as_slice()]).first().copied();
        match room {
            Some(room) if word.is_some_and(|word| word > room) => {
                text.push(name.clone());
                text.extend(wrapped(value, columns));
            }
            _ => {
                let wrapped = wrapped(value, room).into_iter().enumerate();
                text.extend(wrapped.map(|(number, line)| match number {
                    0 => format!("{name:beside$}{line}"),
                    _ => format!("{:beside$}{line}", ""),
                }));
            }
        }
    }
    text.join("\n")
}

/// The lines of a text in that many columns.
fn wrapped(text: &str, columns: Option<u16>) -> Vec<String> {
    let mut table = plain(columns);
    table.add_row([text]);
    spaced(table)
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// The width of the longest word in each column.
fn longest_words<'a>(rows: impl IntoIterator<Item = &'a [String]>) -> Vec<u16> {
    let mut table = Table::new();
    for row in rows {
        table.add_row(row.iter().map(|cell| cell.replace(' ', "\n")));
    }
    table.column_max_content_widths()
}

/// The lines of a table but for the first ones.
fn lines(table: &Table, skipped: usize) -> String {
    let lines = table
        .lines()
        .skip(skipped)
        .map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// As wide as it has to be, and no wider than the terminal that it is shown at.
fn plain(columns: Option<u16>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if let Some(columns) = columns {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(columns);
    }
    table
}

/// Width of the terminal at standard output, in columns. None for a file or a pipe, whose reader
/// wants one row per line.
fn columns() -> Option<u16> {
    let stdout = io::stdout();
    let size = isatty(&stdout)
        .then(|| tcgetwinsize(&stdout).ok())
        .flatten();
    // A terminal that does not know its size reports 0.
    size.map(|size| size.ws_col).filter(|columns| *columns > 0)
}

/// Aligns the table left, with two spaces between columns.
fn spaced(mut table: Table) -> Table {
    let last = table.column_count().saturating_sub(1);
    for (number, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if number < last { GAP } else { 0 }));
    }
    table
}

fn shown(cell: &str) -> String {
    if cell.is_empty() {
        "-".into()
    } else {
        clean(cell)
    }
}

/// A time in UTC with seconds; empty if there is none.
pub(in crate::cli) fn time(time: Option<&prost_types::Timestamp>) -> String {
    let whole = time.map(|time| prost_types::Timestamp { nanos: 0, ..*time });
    whole.map(|time| time.to_string()).unwrap_or_default()
}

/// Age of a time in its largest unit: `45s`, `12m`, `7h`, `3d`. Empty if there is none.
pub(in crate::cli) fn age(time: Option<&prost_types::Timestamp>) -> String {
    let Some(then) = time.and_then(|time| SystemTime::try_from(*time).ok()) else {
        return String::new();
    };
    // A time in the future comes from a clock that is ahead of this one.
    let seconds = SystemTime::from(SystemClock.now()).duration_since(then);
    let seconds = seconds.unwrap_or_default().as_secs();
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// `yes`, or an empty text.
pub(in crate::cli) fn yes(holds: bool) -> String {
    if holds { "yes".into() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table is shown at every width with all of its words, and none is wider.
    #[test]
    fn no_word_is_cut() {
        let uuid = "0198c5a8-0000-7000-8000-000000000000";
        let row = [
            uuid,
            "create",
            "127.0.0.1:20000",
            "the disk of the host is full",
        ];
        let header = ["ID", "VERB", "ENDPOINT", "ERROR"];
        let sheet = Sheet::rows(
            header,
            [row.map(str::to_owned), ["x"; 4].map(str::to_owned)],
        );
        let mut as_records = 0;
        for columns in 36..120 {
            let text = sheet.text(Some(columns), true);
            for word in row.iter().flat_map(|cell| cell.split(' ')) {
                assert!(text.contains(word), "{columns}: {word}:\n{text}");
            }
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(columns.into()), "{columns}:\n{text}");
            let further = sheet.text(Some(columns), false);
            if text.contains("\n\n") {
                as_records += 1;
                assert_eq!(text, further);
            } else {
                assert_eq!(text.split_once('\n').unwrap().1, further);
            }
        }
        assert!((30..50).contains(&as_records), "{as_records}");
    }

    #[test]
    fn tables_are_plain_and_harmless() {
        let text = Sheet::rows(["NAME", "NOTE"], [["a".into(), "\u{1b}[31m\n".into()]]).to_string();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[1].ends_with("\\u{1b}[31m\\n"), "{text}");
        let moment = prost_types::Timestamp {
            seconds: 0,
            nanos: 5,
        };
        assert_eq!(time(Some(&moment)), "1970-01-01T00:00:00Z");
    }
}
