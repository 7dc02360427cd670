//! Checked reading of a message's fields.

/// A message that ends too early, or whose fields cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub &'static str);

impl From<Malformed> for crate::pg::Error {
    fn from(e: Malformed) -> Self {
        crate::pg::Error::protocol(e.to_string())
    }
}

/// A position in a message, in network byte order. Each read moves it on.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// At the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor(bytes)
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses bytes after the last field.
    pub fn end(self) -> Result<(), Malformed> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Malformed("bytes after the last field"))
        }
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(Malformed("ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(Malformed("ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Four bytes with a sign.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Eight bytes with a sign.
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// A number of elements in two bytes, which PostgreSQL never lets be
    /// negative.
    pub fn count(&mut self) -> Result<u16, Malformed> {
        let count = self.u16()?;
        if count > i16::MAX as u16 {
            Err(Malformed("negative count"))
        } else {
            Ok(count)
        }
    }

    /// A length in four bytes, then that many bytes.
    pub fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.i32()?).map_err(|_| Malformed("negative length"))?;
        self.take(len)
    }

    /// Bytes up to a zero byte, which is consumed.
    pub fn cstr(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self
            .0
            .iter()
            .position(|b| *b == 0)
            .ok_or(Malformed("unterminated string"))?;
        let taken = self.take(end)?;
        self.take(1)?;
        Ok(taken)
    }

    /// A zero-terminated string in UTF-8.
    pub fn str(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.cstr()?).map_err(|_| Malformed("string is not utf-8"))
    }
}
