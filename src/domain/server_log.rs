//! Parts of a server's log, which is read from part to part.

use std::{fmt, str::FromStr};

use super::{Error, Reason};

/// Number of lines that are read by default, and the largest number.
pub const LINES: usize = 100;
/// Most lines of a first part.
pub const LINES_MOST: usize = 10_000;

/// A place in a log. What it is made of is the provider's affair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Order of the file: that of a later one is greater.
    pub order: u64,
    /// The file.
    pub file: u64,
    /// Bytes before the place.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            order,
            file,
            offset,
        } = self;
        write!(formatter, "{order:x}-{file:x}-{offset:x}")
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let parts: Vec<&str> = text.splitn(4, '-').collect();
        let read = match parts.as_slice() {
            [order, file, offset] => (|| {
                Some(Self {
                    order: number(order)?,
                    file: number(file)?,
                    offset: number(offset)?,
                })
            })(),
            _ => None,
        };
        read.ok_or_else(|| {
            let message = "the position is not one that a former answer gave";
            Error::new(Reason::FieldInvalid, message).with_field("position")
        })
    }
}

/// Where a part begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// That many lines before the end, or fewer where they are long.
    Last(usize),
    /// Where a former part has ended.
    At(Position),
}

/// A part of a log. Its size is bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Whole lines, without their ends; one that is longer than a part comes in pieces.
    pub lines: Vec<String>,
    /// Where the next part begins.
    pub next: Position,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written() {
        let position = Position {
            order: 20_787,
            file: u64::MAX,
            offset: u64::MAX,
        };
        assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
        for bad in [
            "",
            "--",
            "1-2",
            "1-2-",
            "g-1-1",
            "1-2-3-4",
            "11111111111111111-1-1",
        ] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
