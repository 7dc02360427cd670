//! Backups of the metadata, as archives in the custom format of `pg_dump`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek},
    os::unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use secrecy::ExposeSecret;
use tokio::process::Command;

use super::{ADMIN, DATABASE, Embedded, Options};
use crate::{
    domain::{Error, Reason, Result, version::Version},
    providers::local::{
        command::{self, Finished, command},
        discover::{self, ClientProgram},
        failure,
        user::RunAs,
    },
};

/// First bytes of every archive.
const MAGIC: &[u8] = b"PGDMP";

/// Longest run of a dump or a restore, to end a program that hangs. The metadata of thousands of
/// databases takes seconds.
const LIMIT: Duration = Duration::from_secs(4 * 60 * 60);

/// How long a dump waits for a table lock, such as one that a migration holds.
const LOCK_WAIT: &str = "--lock-wait-timeout=60s";

/// Most bytes that are read of an archive's table of contents.
const MOST: usize = 4 * 1024 * 1024;

/// Tables that identify a backup as one of Howdah's metadata.
const TABLES: [&str; 2] = [
    " TABLE public _sqlx_migrations ",
    " TABLE public sealing_keys ",
];

/// A backup file with a valid table of contents. Damage to the rest shows only at the restore.
#[derive(Debug)]
pub struct Archive {
    file: File,
    path: PathBuf,
    /// Version of the `pg_dump` that made the archive.
    made_by: Version,
    /// Version of the server that the archive was made from.
    taken_from: Version,
    /// All installed versions of `pg_restore`, oldest first.
    readers: Vec<ClientProgram>,
    run_as: RunAs,
}

impl Archive {
    /// Opens a file, and reads its table of contents with the newest `pg_restore`.
    ///
    /// # Errors
    /// BACKUP_NOT_FOUND; BACKUP_INVALID; TOOL_MISSING if no installed `pg_restore` can read it.
    pub async fn open(options: &Options, path: &Path) -> Result<Self> {
        let run_as = RunAs::resolve(options.run_as.as_deref())?;
        let file = open(path)?;
        let readers = options.discovery(run_as).clients("pg_restore").await;
        let newest = readers.last().ok_or_else(|| missing("pg_restore", 0))?;
        let mut list = command(&newest.program, run_as);
        list.arg("--list").stdin(input(&file, path)?);
        let done = run(&mut list, &newest.program, MOST).await?;
        if !done.status.success() {
            return Err(unreadable(&done.errors, path, newest.version));
        }
        let contents = Contents::parse(&done.output);
        let contents = contents.ok_or_else(|| foreign(path))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            made_by: contents.made_by,
            taken_from: contents.taken_from,
            readers,
            run_as,
        })
    }

    /// Version of the server that the archive was made from.
    #[must_use]
    pub fn taken_from(&self) -> Version {
        self.taken_from
    }

    /// Chooses the `pg_restore` for a server of that major version: the same major version if it
    /// can read the archive, otherwise the oldest one that can. A newer `pg_restore` may set
    /// parameters that the server does not know.
    fn reader(&self, major: u16) -> Result<&ClientProgram> {
        let least = self.made_by.major;
        fitting(&self.readers, major.max(least))
            .or_else(|| fitting(&self.readers, least))
            .ok_or_else(|| missing("pg_restore", least))
    }
}

impl Embedded {
    /// Writes a consistent backup of the metadata.
    ///
    /// # Errors
    /// TOOL_MISSING, METADATA_UNAVAILABLE, DISK_FULL, POSTGRESQL_REFUSED.
    pub async fn dump(&self, to: Stdio) -> Result<()> {
        let clients = self.discovery.clients("pg_dump").await;
        let major = self.version.major;
        let cluster = self.cluster();
        let own = cluster.programs.join("pg_dump");
        let found = clients.iter().find(|client| client.program == own);
        let dump = found.or_else(|| fitting(&clients, major));
        let dump = dump.ok_or_else(|| missing("pg_dump", major))?;
        let mut dumping = self.client(&dump.program, cluster.run_as);
        dumping
            .args(["--format=custom", LOCK_WAIT, "--dbname", DATABASE])
            .stdout(to);
        let done = run(&mut dumping, &dump.program, command::OUTPUT).await?;
        if done.status.success() {
            return Ok(());
        }
        if nobody_reads(&done) {
            let message = "nobody reads the standard output any more";
            return Err(Error::new(Reason::BackupUnwritable, message));
        }
        Err(failed("the backup", &done.errors)
            .unwrap_or_else(|| Error::new(Reason::PostgresqlRefused, "pg_dump failed"))
            .with_context(done.errors.trim()))
    }

    /// Restores a backup into an empty database, in one transaction.
    ///
    /// # Errors
    /// TOOL_MISSING, BACKUP_INVALID, METADATA_UNAVAILABLE, DISK_FULL,
    /// POSTGRESQL_REFUSED.
    pub async fn load(&self, archive: &Archive, database: &str) -> Result<()> {
        let reader = archive.reader(self.version.major)?;
        let mut loading = self.client(&reader.program, archive.run_as);
        loading
            .args(["--exit-on-error", "--single-transaction"])
            .args(["--no-owner", "--no-privileges", "--dbname", database])
            .stdin(input(&archive.file, &archive.path)?);
        let done = run(&mut loading, &reader.program, command::OUTPUT).await?;
        if done.status.success() {
            return Ok(());
        }
        let refused = done.errors.contains("could not execute query");
        let otherwise = || match refused {
            true => {
                let message = "the metadata server refuses what is in the backup";
                Error::new(Reason::PostgresqlRefused, message)
            }
            false => damaged(&archive.path),
        };
        Err(failed("the restore", &done.errors)
            .unwrap_or_else(otherwise)
            .with_context(done.errors.trim()))
    }

    /// Builds a client program that connects as `howdah_admin`. The user that the server runs as
    /// can read its environment with the password. That user can read the data directory anyway.
    fn client(&self, program: &Path, run_as: RunAs) -> Command {
        let access = self.access();
        let mut client = command(program, run_as);
        client
            .env("PGPASSWORD", access.password.expose_secret())
            .arg("--host")
            .arg(&access.socket_directory)
            .args(["--port", &access.port.to_string()])
            .args(["--username", ADMIN, "--no-password"]);
        client
    }
}

/// Versions in the table of contents of an archive.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    made_by: Version,
    taken_from: Version,
}

impl Contents {
    /// Parses the output of `pg_restore --list`; none if the archive is not of Howdah's
    /// metadata.
    fn parse(list: &str) -> Option<Self> {
        let version = |label: &str| {
            let (_, rest) = list.split_once(label)?;
            discover::number(rest)
        };
        TABLES
            .iter()
            .all(|table| list.contains(table))
            .then_some(())?;
        Some(Self {
            made_by: version("Dumped by pg_dump version: ")?,
            taken_from: version("Dumped from database version: ")?,
        })
    }
}

/// Of the lowest major version that is at least `least`, the newest program.
fn fitting(clients: &[ClientProgram], least: u16) -> Option<&ClientProgram> {
    let majors = clients.iter().map(|client| client.version.major);
    let major = majors.filter(|major| *major >= least).min()?;
    clients.iter().rfind(|client| client.version.major == major)
}

/// Runs a program to its end, in a process group of its own. A Ctrl-C in the terminal reaches
/// only Howdah, which then ends the program.
async fn run(command: &mut Command, program: &Path, most: usize) -> Result<Finished> {
    command.process_group(0);
    let done = command::run(command, LIMIT, most).await;
    done.map_err(|error| failure::program(error, program))
}

/// Whether a program failed because the reader of its output pipe has closed it.
fn nobody_reads(done: &Finished) -> bool {
    let by_signal = done.status.signal() == Some(rustix::process::Signal::PIPE.as_raw());
    by_signal || done.errors.contains("Broken pipe")
}

fn open(path: &Path) -> Result<File> {
    let invalid = |why: &str| {
        let message = format!("{} cannot be read: {why}", path.display());
        Error::new(Reason::BackupInvalid, message)
    };
    // Without NONBLOCK, opening a FIFO without a writer would block for ever.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let message = format!("there is no file {}", path.display());
            Error::new(Reason::BackupNotFound, message)
        }
        kind => invalid(&kind.to_string()).with_source(error),
    })?;
    if !file.metadata().is_ok_and(|facts| facts.is_file()) {
        return Err(invalid("it is no ordinary file"));
    }
    let mut first = [0; MAGIC.len()];
    match file.read_exact(&mut first) {
        Ok(()) if first == MAGIC => Ok(file),
        _ => Err(foreign(path)),
    }
}

/// The archive as the standard input of a program, whose user may have no right to open the
/// file.
fn input(mut file: &File, path: &Path) -> Result<Stdio> {
    let copied = file.rewind().and_then(|()| file.try_clone());
    copied
        .map(Stdio::from)
        .map_err(|error| failure::file(error, path))
}

fn foreign(path: &Path) -> Error {
    let message = format!("{} is no backup of Howdah's metadata", path.display());
    Error::new(Reason::BackupInvalid, message)
}

fn damaged(path: &Path) -> Error {
    let message = format!("the backup {} is damaged or not whole", path.display());
    Error::new(Reason::BackupInvalid, message)
}

/// The error for a table of contents that the newest `pg_restore` cannot read.
fn unreadable(errors: &str, path: &Path, newest: Version) -> Error {
    if errors.contains("unsupported version") {
        let message = format!(
            "the backup {} was made by a newer pg_dump than the pg_restore that is installed, \
             {newest}: install the client programs of a newer PostgreSQL",
            path.display()
        );
        let missing = Error::new(Reason::ToolMissing, message);
        return missing.with_metadata("tool", "pg_restore");
    }
    damaged(path).with_context(errors.trim())
}

fn missing(tool: &str, least: u16) -> Error {
    let wanted = match least {
        0 => String::new(),
        major => format!(" of PostgreSQL {major} or later"),
    };
    let package = match least {
        0 => "postgresql-client".to_owned(),
        major => format!("postgresql-client-{major}"),
    };
    let message = format!(
        "no {tool}{wanted} is installed: install the client programs, such as with \
         apt-get install {package}, or set local.engine_directories"
    );
    Error::new(Reason::ToolMissing, message).with_metadata("tool", tool)
}

/// Recognises failures of a program that have nothing to do with the archive.
fn failed(what: &str, errors: &str) -> Option<Error> {
    let any = |words: &[&str]| words.iter().any(|word| errors.contains(word));
    if any(&["No space left on device", "Disk quota exceeded"]) {
        let message = format!("no space is left for {what}");
        return Some(Error::new(Reason::DiskFull, message));
    }
    let gone = [
        "connection to server",
        "server closed the connection",
        "terminating connection",
        "no connection to the server",
    ];
    if any(&gone) {
        let message = format!("the metadata server went away during {what}");
        return Some(Error::new(Reason::MetadataUnavailable, message));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = ";\n; Archive created at 2026-11-21 10:00:00 UTC\n;     dbname: howdah\n\
        ;     Dumped from database version: 15.18 (Debian 15.18-0+deb12u1)\n\
        ;     Dumped by pg_dump version: 16.4\n;\n\
        219; 1259 16386 TABLE public _sqlx_migrations howdah_admin\n\
        220; 1259 16390 TABLE public sealing_keys howdah_admin\n";

    fn version(major: u16, minor: u16) -> Version {
        Version { major, minor }
    }

    #[test]
    fn reads_the_table_of_contents() {
        let contents = Contents::parse(LIST).unwrap();
        assert_eq!(contents.made_by, version(16, 4));
        assert_eq!(contents.taken_from, version(15, 18));
        assert_eq!(Contents::parse(&LIST.replace("sealing_keys", "x")), None);
        assert_eq!(Contents::parse(""), None);
    }

    #[test]
    fn takes_the_nearest_program() {
        let client = |major, minor| ClientProgram {
            version: version(major, minor),
            program: format!("/{major}.{minor}").into(),
        };
        let clients = [client(15, 1), client(15, 2), client(17, 1), client(18, 0)];
        let major = |least| fitting(&clients, least).map(|client| client.version);
        assert_eq!(major(15), Some(version(15, 2)));
        assert_eq!(major(16), Some(version(17, 1)));
        assert_eq!(major(19), None);
    }

    #[test]
    fn says_what_to_install() {
        let error = missing("pg_dump", 18);
        assert_eq!(error.reason(), Reason::ToolMissing);
        assert!(error.message().contains("postgresql-client-18"));
    }
}
