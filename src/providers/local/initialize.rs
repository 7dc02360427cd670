//! Creates data directories under a temporary name, and renames them when they are complete.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};

use super::{
    ADMIN, Points,
    command::{self, command},
    configure,
    control::DATA,
    directory::{Directory, PRIVATE, blocking},
    failure,
    lock::Lock,
    log,
    user::RunAs,
};
use crate::{
    domain::{Error, Reason, Result},
    failpoint,
};

/// Longest run of initdb.
const LIMIT: Duration = Duration::from_secs(300);

/// Name of the temporary file that passes the password to initdb.
const PASSWORD: &str = "password";

/// A server's home that is to be created at `{parent}/{name}`, and the lock that protects it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Directory of PostgreSQL's programs.
    pub(crate) programs: PathBuf,
    /// Directory that the home is created in.
    pub(crate) parent: PathBuf,
    /// Final name of the home.
    pub(crate) name: String,
    /// Name of the home until it is complete.
    pub(crate) unfinished: String,
    /// Prefix of the names of directories that earlier attempts may have left. All directories
    /// with this prefix are removed, so nothing else may have such a name.
    pub(crate) leftovers: String,
    /// User that owns the files.
    pub(crate) run_as: RunAs,
    /// Whether the files must survive a crash of the machine.
    pub(crate) durable: bool,
    /// Failpoints at which a test can kill this process.
    pub(crate) points: &'static Points,
    /// The lock on the home, already acquired.
    pub(crate) lock: Lock,
}

impl Plan {
    /// System identifier of an existing home; none if there is no home.
    ///
    /// # Errors
    /// SERVER_MISMATCH when the data is of another major version.
    pub(crate) async fn present(&self, major: u16) -> Result<Option<u64>> {
        let plan = self.clone();
        blocking(move || {
            let parent = Directory::open(&plan.parent)?;
            let Some(data) = parent.grandchild(&plan.name, DATA)? else {
                return Ok(None);
            };
            check_major(&data, major)?;
            // A crash may have happened between the rename and the sync of the directory.
            parent.sync()?;
            identifier(&data).map(Some)
        })
        .await
    }

    /// Creates the home with initdb, and returns its system identifier.
    pub(crate) async fn initdb(&self, password: &SecretString) -> Result<u64> {
        let (plan, password) = (self.clone(), password.clone());
        blocking(move || plan.prepare(Some(&password))).await?;
        if let Err(error) = self.run_initdb().await {
            // Nothing may stay behind, above all not the file with the password.
            let (parent, leftovers) = (self.parent.clone(), self.leftovers.clone());
            blocking(move || sweep(&Directory::open(&parent)?, &leftovers)).await?;
            return Err(error);
        }
        failpoint::hit(self.points.after_initdb);
        let plan = self.clone();
        blocking(move || {
            plan.complete()?;
            plan.publish()
        })
        .await
    }

    /// Path of the unfinished home.
    pub(crate) fn path(&self) -> PathBuf {
        self.parent.join(&self.unfinished)
    }

    /// Removes what earlier attempts have left, and creates the empty unfinished home.
    pub(crate) fn prepare(&self, password: Option<&SecretString>) -> Result<()> {
        let parent = Directory::open(&self.parent)?;
        sweep(&parent, &self.leftovers)?;
        let home = parent.make(&self.unfinished, PRIVATE, self.run_as)?;
        home.make(log::DIRECTORY, PRIVATE, self.run_as)?;
        if let Some(password) = password {
            let text = password.expose_secret().as_bytes();
            home.create(PASSWORD, text, 0o600, self.run_as)?;
        }
        Ok(())
    }

    async fn run_initdb(&self) -> Result<()> {
        let program = self.programs.join("initdb");
        let home = self.path();
        let mut initdb = command(&program, self.run_as);
        initdb
            .arg("--pgdata")
            .arg(home.join(DATA))
            .arg("--pwfile")
            .arg(home.join(PASSWORD))
            .args(["--username", ADMIN])
            .args(["--auth-local=scram-sha-256", "--auth-host=scram-sha-256"])
            .args(["--encoding=UTF8", locale(), "--data-checksums"])
            .stdin(self.lock.stdin()?);
        if !self.durable {
            initdb.arg("--no-sync");
        }
        // Not killed when this future is dropped. initdb has the lock as its standard input, so a
        // new attempt waits until it has ended.
        let started = initdb.spawn();
        failpoint::hit(self.points.spawned);
        let failed = |error| failure::program(error, &program);
        let mut child = started.map_err(failed)?;
        let done = command::finish(&mut child, LIMIT, command::OUTPUT).await;
        let done = done.map_err(failed)?;
        if done.status.success() {
            return Ok(());
        }
        let text = format!("{}{}", done.output, done.errors);
        Err(failure::output("initdb", &home, &text))
    }

    /// Adds what initdb does not create.
    fn complete(&self) -> Result<()> {
        let parent = Directory::open(&self.parent)?;
        let missing = || Error::internal("the unfinished data directory is gone");
        let home = parent.child(&self.unfinished)?.ok_or_else(missing)?;
        home.unlink(PASSWORD)?;
        let data = home.child(DATA)?.ok_or_else(missing)?;
        // The file is written again before each start. Single-user mode needs an empty one until
        // then, because `postgresql.conf` includes it.
        data.create(configure::FILE, b"", 0o600, self.run_as)?;
        data.append("postgresql.conf", configure::INCLUDE.as_bytes())?;
        if self.durable {
            data.sync()?;
            home.sync()?;
        }
        Ok(())
    }

    /// Gives the home its final name, and returns the system identifier.
    pub(crate) fn publish(&self) -> Result<u64> {
        let parent = Directory::open(&self.parent)?;
        let data = parent.grandchild(&self.unfinished, DATA)?;
        let data = data.ok_or_else(|| Error::internal("initdb has left no data directory"))?;
        let identifier = identifier(&data)?;
        parent.rename(&self.unfinished, &parent, &self.name)?;
        failpoint::hit(self.points.after_rename);
        parent.sync()?;
        Ok(identifier)
    }
}

/// Removes the directories of unfinished attempts, whose names begin with `leftovers`.
pub(crate) fn sweep(parent: &Directory, leftovers: &str) -> Result<()> {
    for left in parent.names()? {
        // A file with such a name is left alone.
        if left.starts_with(leftovers) && parent.path().join(&left).is_dir() {
            parent.remove_tree(&left)?;
        }
    }
    Ok(())
}

/// Reads the system identifier: the first field of `global/pg_control`, in the byte order of the
/// machine (PostgreSQL's `src/include/catalog/pg_control.h`).
pub(crate) fn identifier(data: &Directory) -> Result<u64> {
    let broken = || {
        let message = "what is found is not the server on record: it has no control file";
        Error::new(Reason::ServerMismatch, message).with_context(data.path().display().to_string())
    };
    let global = data.child("global")?.ok_or_else(broken)?;
    let mut file = global.file("pg_control")?.ok_or_else(broken)?;
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes)
        .map_err(|error| broken().with_source(error))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Major version of a data directory; none if `PG_VERSION` is missing or malformed.
pub(crate) fn major(data: &Directory) -> Result<Option<u16>> {
    let bytes = data.read("PG_VERSION")?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).trim().parse().ok())
}

fn check_major(data: &Directory, wanted: u16) -> Result<()> {
    if major(data)? == Some(wanted) {
        return Ok(());
    }
    let message = "what is found is not the server on record: it is of another version";
    Err(Error::new(Reason::ServerMismatch, message).with_context(data.path().display().to_string()))
}

/// A UTF-8 locale that sorts by code point if the C library has it, otherwise plain C.
fn locale() -> &'static str {
    let known = ["/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8"];
    if known.iter().any(|path| Path::new(path).exists()) {
        "--locale=C.UTF-8"
    } else {
        "--locale=C"
    }
}
