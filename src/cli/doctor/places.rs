//! Checks directories: they must be writable and passable, and need free space.

use std::{
    fs,
    net::TcpStream,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{Access, access, statvfs};

use crate::config::{Config, Finding};

/// Free bytes below which there is hardly space for one server and its log.
const LITTLE_ROOM: u64 = 1 << 30;

pub(super) fn check(config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        writable("data directory", &config.data_dir),
        writable("local root", &config.local.root),
        writable("run directory", &config.local.run_directory),
        room(&config.local.root),
    ];
    findings.extend(in_use(&config.data_dir));
    findings
}

/// The nearest existing parent directory, or the path itself.
pub(super) fn nearest(path: &Path) -> PathBuf {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    existing.unwrap_or_else(|| Path::new("/")).to_owned()
}

fn writable(check: &str, path: &Path) -> Finding {
    let nearest = nearest(path);
    let shown = path.display();
    if !nearest.is_dir() {
        let message = format!("{} is no directory", nearest.display());
        return Finding::fail(check, message, "move the file away or set another place");
    }
    match access(&nearest, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if nearest == path => Finding::ok(check, format!("{shown} can be written")),
        Ok(()) => Finding::ok(check, format!("{shown} can be made")),
        Err(error) => {
            let message = format!("{} cannot be written: {error}", nearest.display());
            Finding::fail(check, message, way_out(path, nearest == path))
        }
    }
}

/// The remedy for a directory that cannot be written. Changing the owner of an existing
/// directory is rarely right: servers could not read their data any more.
fn way_out(path: &Path, exists: bool) -> String {
    let shown = path.display();
    let elsewhere = "set another place (docs/configuration.md)";
    match fs::metadata(path) {
        Ok(facts) if exists => {
            format!(
                "run it as the user {} that owns {shown}, or {elsewhere}",
                user(facts.uid())
            )
        }
        _ => format!("sudo install -d -m 0711 -o \"$(id -un)\" {shown}, or {elsewhere}"),
    }
}

/// Name of a user, or the user id if `/etc/passwd` does not contain it.
fn user(uid: u32) -> String {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

fn room(root: &Path) -> Finding {
    let check = "disk";
    match statvfs(nearest(root)) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let message = format!("{} MiB free for servers", free >> 20);
            if free >= LITTLE_ROOM {
                Finding::ok(check, message)
            } else {
                Finding::warn(check, message, "free some space, or set --local-root")
            }
        }
        Err(error) => Finding::warn(check, format!("free space is unknown: {error}"), ""),
    }
}

/// Whether a process serves from the data directory, judged by its endpoint file.
fn in_use(data_dir: &Path) -> Option<Finding> {
    let text = fs::read_to_string(data_dir.join("endpoint")).ok()?;
    let address = text.trim();
    match address.strip_prefix("unix:") {
        Some(path) => drop(UnixStream::connect(path).ok()?),
        None => {
            let address = address.parse().ok()?;
            drop(TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?);
        }
    }
    Some(Finding::warn(
        "data directory in use",
        format!("a process serves from it at {address}"),
        "stop that process before another one starts, or set --data-dir",
    ))
}

/// The parent directories of `path` that only their owners can pass through.
pub(super) fn closed(path: &Path) -> Vec<PathBuf> {
    let existing = path.ancestors().filter(|ancestor| ancestor.exists());
    let closed = existing.filter(|ancestor| {
        fs::metadata(ancestor).is_ok_and(|metadata| metadata.mode() & 0o001 == 0)
    });
    closed.map(Path::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, net::TcpListener, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::config::finding::Status;

    #[test]
    fn places_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("a/b");
        assert_eq!(nearest(&inner), directory.path());
        assert_eq!(writable("x", &inner).status, Status::Ok);
        fs::write(directory.path().join("a"), "").unwrap();
        assert_eq!(writable("x", &inner).status, Status::Fail);
        assert_eq!(writable("x", Path::new("/proc/1/x")).status, Status::Fail);
    }

    #[test]
    fn no_advice_changes_the_owner_of_what_is_there() {
        let there = way_out(Path::new("/proc/1"), true);
        assert!(there.contains("as the user root"), "{there}");
        assert!(!there.contains("install") && !there.contains("chown"));
        let absent = way_out(Path::new("/srv/howdah-that-is-not-there"), false);
        assert!(absent.contains("install -d"), "{absent}");
        assert_eq!(user(4_000_000_000), "4000000000");
    }

    #[test]
    fn closed_directories_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("a");
        fs::create_dir(&inner).unwrap();
        let mode = |mode| fs::set_permissions(&inner, Permissions::from_mode(mode)).unwrap();
        mode(0o711);
        assert!(!closed(&inner.join("x")).contains(&inner));
        mode(0o700);
        assert!(closed(&inner.join("x")).contains(&inner));
    }

    #[test]
    fn a_process_that_serves_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        // No other test listens on this address.
        let listener = TcpListener::bind("127.0.0.77:0").unwrap();
        let endpoint = directory.path().join("endpoint");
        fs::write(&endpoint, listener.local_addr().unwrap().to_string()).unwrap();
        assert!(in_use(directory.path()).is_some());
        drop(listener);
        assert!(in_use(directory.path()).is_none());
    }
}
