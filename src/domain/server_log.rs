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
    /// The file.
    pub file: u64,
    /// Bytes before the place.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}-{:x}", self.file, self.offset)
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let read = text.split_once('-').and_then(|(file, offset)| {
            Some(Self {
                file: number(file)?,
                offset: number(offset)?,
            })
        });
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
            file: u64::MAX,
            offset: 10,
        };
        assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
        for bad in ["", "-", "1", "1-", "g-1", "1-2-3", "11111111111111111-1"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
