//! Names as the server sends them.

use std::fmt;

/// A name or a prefix. It is UTF-8, but in a database whose encoding is SQL_ASCII, where a
/// name is any bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name<'a>(pub &'a [u8]);

impl<'a> From<&'a str> for Name<'a> {
    fn from(text: &'a str) -> Self {
        Name(text.as_bytes())
    }
}

impl Name<'_> {
    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Each byte that is not part of UTF-8 is written as `\xNN`.
impl fmt::Display for Name<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            formatter.write_str(chunk.valid())?;
            for byte in chunk.invalid() {
                write!(formatter, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_bytes_are_shown() {
        assert_eq!(Name::from("Ünïcode").to_string(), "Ünïcode");
        assert_eq!(Name(b"a\xff\xc3b").to_string(), "a\\xff\\xc3b");
    }
}
