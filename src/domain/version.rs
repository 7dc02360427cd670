//! PostgreSQL versions.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Error, Reason, Result};

/// A version that exists, such as 15.18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Major version, 10 or later.
    pub major: u16,
    /// Minor version; 0 for the first release and for betas.
    pub minor: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse::<Wanted>()? {
            Wanted {
                major: Some(major),
                minor: Some(minor),
            } => Ok(Self { major, minor }),
            _ => Err(malformed(text)),
        }
    }
}

/// A version as users ask for it: nothing (the newest), a major, or an exact one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Major version, if one was named.
    pub major: Option<u16>,
    /// Minor version, if one was named.
    pub minor: Option<u16>,
}

impl Wanted {
    /// Whether `version` is what was asked for.
    #[must_use]
    pub fn matches(self, version: Version) -> bool {
        self.major.is_none_or(|major| major == version.major)
            && self.minor.is_none_or(|minor| minor == version.minor)
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.major, self.minor) {
            (Some(major), Some(minor)) => write!(formatter, "{major}.{minor}"),
            (Some(major), None) => write!(formatter, "{major}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Wanted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut parts = text.splitn(2, '.');
        let major = parts.next().and_then(number).filter(|major| *major >= 10);
        let minor = parts
            .next()
            .map(|part| number(part).ok_or_else(|| malformed(text)));
        let major = major.ok_or_else(|| malformed(text))?;
        Ok(Self {
            major: Some(major),
            minor: minor.transpose()?,
        })
    }
}

fn number(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn malformed(text: &str) -> Error {
    let shown: String = text.chars().take(32).collect();
    Error::new(
        Reason::VersionMalformed,
        format!("`{shown}` is no PostgreSQL version: write a major such as `15`, or `15.18`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_majors_and_minors_and_refuses_the_rest() {
        let wanted = |text: &str| text.parse::<Wanted>();
        assert_eq!(
            wanted("15").unwrap(),
            Wanted {
                major: Some(15),
                minor: None
            }
        );
        assert_eq!(
            wanted("15.18").unwrap(),
            Wanted {
                major: Some(15),
                minor: Some(18)
            }
        );
        assert_eq!(wanted("").unwrap(), Wanted::default());
        for bad in [
            "9", "15.", ".1", "15.1.2", "x", "15beta", "+15", "70000", "-1",
        ] {
            assert_eq!(
                wanted(bad).unwrap_err().reason(),
                Reason::VersionMalformed,
                "{bad}"
            );
        }
        assert!(wanted("15").unwrap().matches(Version {
            major: 15,
            minor: 3
        }));
        assert!(!wanted("15.2").unwrap().matches(Version {
            major: 15,
            minor: 3
        }));
    }
}
