//! The operating system user that PostgreSQL's programs run as. It must not be root.

use std::{fs, path::Path, process::Command};

use rustix::process::geteuid;

use crate::domain::{Error, Reason, Result};

/// User that servers run as if none is configured.
const DEFAULT: &str = "postgres";

/// Who runs the programs, and owns their files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunAs {
    /// The user of this process, which is not root.
    Ourselves,
    /// Another user, because this process runs as root.
    Other {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

impl RunAs {
    /// Finds the user `name`. Without a name it is `postgres` for root, otherwise this user.
    pub(crate) fn resolve(name: Option<&str>) -> Result<Self> {
        if !geteuid().is_root() {
            return match name.map(lookup).transpose()? {
                Some((uid, _)) if uid != geteuid().as_raw() => {
                    Err(invalid("only root can run servers as another user"))
                }
                _ => Ok(Self::Ourselves),
            };
        }
        match lookup(name.unwrap_or(DEFAULT))? {
            (0, _) => Err(invalid("PostgreSQL refuses to run as root")),
            (uid, gid) => Ok(Self::Other { uid, gid }),
        }
    }

    /// User id.
    pub(crate) fn uid(self) -> u32 {
        match self {
            Self::Ourselves => geteuid().as_raw(),
            Self::Other { uid, .. } => uid,
        }
    }
}

/// User and group id of a name, from `/etc/passwd`, otherwise from the program `id`.
fn lookup(name: &str) -> Result<(u32, u32)> {
    let accounts = fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    let found = accounts.lines().find_map(|line| entry(line, name));
    found.or_else(|| ask(name)).ok_or_else(|| {
        invalid(&format!(
            "there is no user `{name}` to run servers as: make it, or set `local.run_as`"
        ))
    })
}

/// Parses a line of `/etc/passwd` (passwd(5)); none if it is another user's line.
fn entry(line: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields = line.split(':');
    if fields.next()? != name {
        return None;
    }
    let uid = fields.nth(1)?.parse().ok()?;
    Some((uid, fields.next()?.parse().ok()?))
}

fn ask(name: &str) -> Option<(u32, u32)> {
    if name.starts_with('-') {
        return None;
    }
    let number = |option: &str| {
        let output = Command::new("id").args([option, name]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    Some((number("-u")?, number("-g")?))
}

fn invalid(message: &str) -> Error {
    Error::new(Reason::ConfigInvalid, message).with_field("local.run_as")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_passwd_lines() {
        let line = "postgres:x:104:106:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash";
        assert_eq!(entry(line, "postgres"), Some((104, 106)));
        assert_eq!(entry(line, "postgre"), None);
        assert_eq!(entry("postgres:x:a:b", "postgres"), None);
        assert_eq!(entry("postgres", "postgres"), None);
    }

    #[test]
    fn an_unknown_user_is_refused() {
        let error = lookup("nobody-of-that-name").unwrap_err();
        assert_eq!(error.reason(), Reason::ConfigInvalid);
    }
}
