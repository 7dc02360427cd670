//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log, written `X/Y` in hexadecimal as
/// PostgreSQL's `pg_lsn` type does. Zero is invalid to PostgreSQL and means
/// "none" here too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// `0/0`, which is no position.
    pub const ZERO: Lsn = Lsn(0);
    /// The last position that can be named.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// From the number that the protocol carries.
    pub const fn new(position: u64) -> Lsn {
        Lsn(position)
    }

    /// The number that the protocol carries.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether this is no position at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The position `bytes` further on, if there is one.
    pub fn checked_add(self, bytes: u64) -> Option<Lsn> {
        self.0.checked_add(bytes).map(Lsn)
    }

    /// The position `bytes` before, if there is one.
    pub fn checked_sub(self, bytes: u64) -> Option<Lsn> {
        self.0.checked_sub(bytes).map(Lsn)
    }

    /// The bytes from `earlier` to here; none if `earlier` is later.
    pub fn checked_distance(self, earlier: Lsn) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// What is not an LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a log sequence number of the form X/Y")]
pub struct InvalidLsn;

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(s: &str) -> Result<Self, InvalidLsn> {
        let (high, low) = s.split_once('/').ok_or(InvalidLsn)?;
        Ok(Lsn(half(high)? << 32 | half(low)?))
    }
}

/// One to eight hexadecimal digits; `from_str_radix` alone would let `+1` in.
fn half(s: &str) -> Result<u64, InvalidLsn> {
    if s.is_empty() || s.len() > 8 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(InvalidLsn);
    }
    u64::from_str_radix(s, 16).map_err(|_| InvalidLsn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_postgresql_writes() {
        assert_eq!("16/B374D848".parse(), Ok(Lsn::new(0x16_B374_D848)));
        assert_eq!(Lsn::new(0x16_0000_000A).to_string(), "16/A");
        assert_eq!("0/0".parse(), Ok(Lsn::ZERO));
        assert_eq!("FFFFFFFF/FFFFFFFF".parse(), Ok(Lsn::MAX));
        for bad in [
            "",
            "/",
            "1/",
            "/1",
            "1",
            "1/2/3",
            "123456789/0",
            "0/+1",
            "0/G",
            " 0/1",
        ] {
            assert_eq!(bad.parse::<Lsn>(), Err(InvalidLsn), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(n: u64) {
            let lsn = Lsn::new(n);
            prop_assert_eq!(lsn.to_string().parse(), Ok(lsn));
            prop_assert_eq!(lsn.to_string().to_lowercase().parse(), Ok(lsn));
        }

        #[test]
        fn arithmetic_is_checked(a: u64, b: u64) {
            let (x, y) = (Lsn::new(a), Lsn::new(b));
            prop_assert_eq!(x.checked_add(b).map(Lsn::get), a.checked_add(b));
            prop_assert_eq!(x.checked_sub(b).map(Lsn::get), a.checked_sub(b));
            prop_assert_eq!(x.checked_distance(y), a.checked_sub(b));
            prop_assert_eq!(x < y, a < b);
        }

        #[test]
        fn garbage_never_panics(s in ".*") {
            let _ = s.parse::<Lsn>();
        }
    }
}
