//! Translates failures of files, programs and servers into errors of Howdah.

use std::{collections::BTreeMap, io, path::Path};

use rustix::io::Errno;

use super::words;
use crate::domain::{Error, Reason};

/// The error for a failed file operation at `path`.
pub(crate) fn file(error: io::Error, path: &Path) -> Error {
    let shown = path.display();
    let (reason, message) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (Reason::DiskFull, format!("no space is left for {shown}"))
        }
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::NotFound => (
            Reason::DataDirUnwritable,
            format!("{shown} cannot be written: {error}"),
        ),
        _ if is_shortage(&error) => return shortage(error, format!("cannot use {shown} now")),
        _ if is_in_the_way(&error) => (
            Reason::DataDirDamaged,
            format!("something else is in the place of {shown}: {error}"),
        ),
        _ => {
            let context = format!("cannot use {shown}");
            return Error::internal(context).with_source(error);
        }
    };
    Error::new(reason, message).with_source(error)
}

/// The error for something at `path` that is not a directory, where a directory is needed.
pub(crate) fn in_the_way(path: &Path) -> Error {
    let message = format!(
        "something else than a directory is in the place of {}: move it away, and put the \
         directory back if there was one",
        path.display()
    );
    Error::new(Reason::DataDirDamaged, message)
}

/// Whether a directory, a symbolic link, a socket or the like is in the place of a file.
fn is_in_the_way(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::IsADirectory || is(error, Errno::LOOP) || is(error, Errno::NXIO)
}

/// Free bytes that a start needs at least: for the lock file, the pid file and the first lines
/// of the log.
const SPACE_TO_START: u64 = 64 * 1024;

/// Shortages that may pass without help: file handles, processes, memory, or a program file that
/// is still open for writing.
const SHORT: [Errno; 5] = [
    Errno::MFILE,
    Errno::NFILE,
    Errno::AGAIN,
    Errno::NOMEM,
    Errno::TXTBSY,
];

fn is_shortage(error: &io::Error) -> bool {
    SHORT.iter().any(|short| is(error, *short))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// The error for a temporary shortage on this machine. It can be retried.
fn shortage(error: io::Error, what: String) -> Error {
    Error::new(Reason::ServerUnavailable, format!("{what}: {error}")).with_source(error)
}

/// The error for a process that cannot be watched.
pub(crate) fn watch(error: io::Error) -> Error {
    let what = "cannot watch a process";
    match is_shortage(&error) {
        true => shortage(error, what.to_owned()),
        false => Error::internal(what).with_source(error),
    }
}

/// The error for a program that could not be run, or was killed after its time limit.
pub(crate) fn program(error: io::Error, program: &Path) -> Error {
    let shown = program.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            Error::new(Reason::ToolMissing, format!("{shown} is not installed")).with_source(error)
        }
        io::ErrorKind::TimedOut => Error::new(
            Reason::ServerUnavailable,
            format!("{shown} did not end in time"),
        )
        .with_source(error),
        io::ErrorKind::PermissionDenied => Error::new(
            Reason::ToolMissing,
            format!("{shown} cannot be run by the user that servers run as"),
        )
        .with_source(error),
        _ if is_shortage(&error) => shortage(error, format!("cannot run {shown} now")),
        _ => Error::internal(format!("cannot run {shown}")).with_source(error),
    }
}

/// The error for a program that failed while doing `what`. The reason is found in its `output`.
pub(crate) fn output(what: &str, path: &Path, output: &str) -> Error {
    let short = SHORT.map(|errno| io::Error::from(errno).to_string());
    // The system's text for each shortage. Rust appends the error number, programs do not.
    let words = |text: &String| text.split(" (os error").next().unwrap_or(text).to_owned();
    match short.iter().map(words).find(|words| output.contains(words)) {
        Some(words) => {
            let message = format!("{what} is not possible now: {words}");
            Error::new(Reason::ServerUnavailable, message).with_context(output.trim())
        }
        None => because(failed(what, path, output), words::complaint(output), output),
    }
}

fn failed(what: &str, path: &Path, output: &str) -> Error {
    let shown = path.display();
    // A full disk may also have cut off the program's message, so free space is checked too.
    let (reason, message) = if output.contains("No space left on device") || is_full(path) {
        return full(path).with_context(output.trim());
    } else if is_denied(path, output) {
        let message = format!("{shown} cannot be written by the user that servers run as");
        (Reason::DataDirUnwritable, message)
    } else {
        (Reason::ServerStartFailed, format!("{what} failed"))
    };
    Error::new(reason, message).with_context(output.trim())
}

/// Whether a file below `path`, or one without a name, could not be written. What is denied
/// elsewhere, such as a file of the installation, is said in the program's own words.
fn is_denied(path: &Path, output: &str) -> bool {
    let denied = ["Permission denied", "Read-only file system"];
    let mut lines = output
        .lines()
        .filter(|line| denied.iter().any(|words| line.contains(words)));
    lines.any(|line| {
        let mut quoted = line.split(['"', '\'']).skip(1).step_by(2);
        let elsewhere = |name: &str| name.starts_with('/') && !Path::new(name).starts_with(path);
        !quoted.any(elsewhere)
    })
}

/// That a server has no space for its data.
pub(crate) fn full(path: &Path) -> Error {
    let message = format!("no space is left for {}", path.display());
    Error::new(Reason::DiskFull, message)
}

/// Whether the file system of `path` has too little space left for a start.
pub(crate) fn is_full(path: &Path) -> bool {
    let place = path.ancestors().find(|place| place.exists());
    let found = place.and_then(|place| rustix::fs::statvfs(place).ok());
    // A file system without blocks, such as a tmpfs without a limit, does not count them.
    found.is_some_and(|found| {
        found.f_blocks > 0 && found.f_bavail.saturating_mul(found.f_frsize) < SPACE_TO_START
    })
}

/// The error for a server that did not start. The reason is found in its new log lines and in
/// the `parameters` that its user has set.
pub(crate) fn start(
    port: u16,
    path: &Path,
    log: &str,
    parameters: &BTreeMap<String, String>,
) -> Error {
    if log.contains("Address already in use") {
        let message = format!("port {port} is in use by another process");
        return Error::new(Reason::PortTaken, message).with_context(log.trim());
    }
    // Shortages are not searched for here: a line about one may come from a session, and would
    // not be the reason why the start failed.
    let error = failed("starting the server", path, log);
    because(error, words::last(log, parameters), log)
}

/// Adds PostgreSQL's own words to an error that has no more precise reason.
fn because(error: Error, words: Option<String>, output: &str) -> Error {
    match (error.reason(), words) {
        (Reason::ServerStartFailed, Some(words)) => {
            let message = format!("{}: {words}", error.message());
            Error::new(Reason::ServerStartFailed, message).with_context(output.trim())
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(log: &str) -> Error {
        super::start(7000, Path::new("/x"), log, &BTreeMap::new())
    }

    #[test]
    fn tells_full_from_unwritable() {
        let path = Path::new("/x");
        let reason = |kind: io::ErrorKind| file(kind.into(), path).reason();
        assert_eq!(reason(io::ErrorKind::StorageFull), Reason::DiskFull);
        assert_eq!(
            reason(io::ErrorKind::PermissionDenied),
            Reason::DataDirUnwritable
        );
        assert_eq!(reason(io::ErrorKind::InvalidInput), Reason::Internal);
        let full = output("initdb", path, "initdb: x: No space left on device\n");
        assert_eq!(full.reason(), Reason::DiskFull);
        let denied = |file: &str| {
            let said = format!(
                "initdb: error: could not open file \"{file}\" for reading: Permission denied\n"
            );
            output("initdb", path, &said)
        };
        assert_eq!(denied("/x/data/base").reason(), Reason::DataDirUnwritable);
        assert_eq!(denied("base").reason(), Reason::DataDirUnwritable);
        let other = denied("/opt/pg/share/postgres.bki");
        assert_eq!(other.reason(), Reason::ServerStartFailed);
        assert!(other.message().contains("postgres.bki"), "{other:?}");
        let taken = start("LOG: could not bind: Address already in use");
        assert_eq!(taken.reason(), Reason::PortTaken);
        assert_eq!(taken.message(), "port 7000 is in use by another process");
    }

    #[test]
    fn a_shortage_may_pass() {
        let path = Path::new("/x");
        for errno in SHORT {
            let error = || io::Error::from(errno);
            for error in [file(error(), path), program(error(), path), watch(error())] {
                assert!(error.retryable(), "{error:?}");
                assert!(error.message().contains("os error"), "{error:?}");
            }
        }
        let fork = "initdb: error: could not fork: Resource temporarily unavailable";
        assert!(output("initdb", path, fork).retryable());
        let log = "2026-11-29 21:51:10.124 UTC [7] FATAL:  could not map anonymous shared \
                   memory: Cannot allocate memory\n";
        assert_eq!(start(log).reason(), Reason::ServerStartFailed);
        assert_eq!(watch(Errno::BADF.into()).reason(), Reason::Internal);
    }

    #[test]
    fn says_why_a_server_did_not_start() {
        let log = "2026-11-29 21:51:10.123 UTC [7] LOG:  starting PostgreSQL\n\
            2026-11-29 21:51:10.124 UTC [7] FATAL:  could not map memory\n\
            2026-11-29 21:51:10.125 UTC [9] shop@shop FATAL:  the system is starting up\n\
            stopped waiting\n";
        let error = start(log);
        let expected = "starting the server failed: could not map memory";
        assert_eq!(error.message(), expected);
        assert!(error.internal_detail().contains("stopped waiting"));
        let silent = start("");
        assert_eq!(silent.message(), "starting the server failed");
    }
}
