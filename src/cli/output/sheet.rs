//! Tables.

use std::{fmt, io, time::SystemTime};

use comfy_table::{Cell, ContentArrangement, Table, presets};
use rustix::termios::{isatty, tcgetwinsize};

use super::clean;
use crate::domain::clock::{Clock as _, SystemClock};

/// A table with a header, or a list of names and values.
pub(in crate::cli) struct Sheet(Table);

impl Sheet {
    /// A table of rows below `header`.
    pub(in crate::cli) fn rows<const N: usize>(
        header: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Self {
        let mut table = plain();
        table.set_header(header);
        for row in rows {
            table.add_row(row.iter().map(|cell| Cell::new(shown(cell))));
        }
        Self(spaced(table))
    }

    /// One resource, with a name and a value per line. Empty values are left out.
    pub(in crate::cli) fn fields(fields: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut table = plain();
        for (name, value) in fields {
            if !value.is_empty() {
                table.add_row([Cell::new(name), Cell::new(clean(&value))]);
            }
        }
        Self(spaced(table))
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self
            .0
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect();
        formatter.write_str(&lines.join("\n"))
    }
}

/// A table that is as wide as needed, and at most as wide as the terminal.
fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if let Some(columns) = columns() {
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
        column.set_padding((0, if number < last { 2 } else { 0 }));
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
