//! Rows as pgoutput sends them.

use crate::pg::wire::{Cursor, Malformed};

/// One column's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// SQL NULL; in a key tuple also a column that is not part of the key.
    Null,
    /// A TOASTed value that the update did not touch and that was not logged.
    Unchanged,
    /// The output of the type's output function, in the client's encoding.
    Text(&'a [u8]),
    /// The output of the type's send function.
    Binary(&'a [u8]),
}

/// A row: as many values as the relation's last message has columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: u16,
    // Walked once while decoding, so that it is known to hold `columns` values.
    body: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// Reads a tuple, checking each length, and leaves the cursor behind it.
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        let columns = cursor.count()?;
        let start = cursor.rest();
        for _ in 0..columns {
            value(cursor)?;
        }
        let len = start.len() - cursor.rest().len();
        Ok(Tuple {
            columns,
            body: start.get(..len).unwrap_or_default(),
        })
    }

    /// The number of columns.
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// Whether the row has no columns.
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// The values in the order of the relation's columns.
    pub fn values(&self) -> Values<'a> {
        Values {
            left: self.len(),
            cursor: Cursor::new(self.body),
        }
    }

    /// The bytes that the row takes on the wire, without its column count.
    pub fn wire_len(&self) -> usize {
        self.body.len()
    }
}

fn value<'a>(cursor: &mut Cursor<'a>) -> Result<Value<'a>, Malformed> {
    match cursor.u8()? {
        b'n' => Ok(Value::Null),
        b'u' => Ok(Value::Unchanged),
        b't' => Ok(Value::Text(cursor.sized()?)),
        b'b' => Ok(Value::Binary(cursor.sized()?)),
        _ => Err(Malformed("unknown kind of column")),
    }
}

/// The values of a row.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    left: usize,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        value(&mut self.cursor).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Values<'_> {}
