//! The PostgreSQL that keeps Howdah's own metadata, when no other one is named.
//!
//! It lies in the data directory: `metadata` is the server's home,
//! `metadata.password` its password, `metadata.engine` the programs that it was
//! started with last. It outlives a crash of Howdah and is adopted.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    ADMIN, EMBEDDED,
    configure::{self, Contents, FILE},
    control::{Cluster, DATA, Found},
    directory::{Directory, PRIVATE, blocking},
    discover::{self, Discovery},
    failure,
    initialize::{self, Plan},
    lock::Lock,
    settings,
    user::RunAs,
};
use crate::{
    domain::{
        Error, Reason, Result,
        engine::Engine,
        provider::Started,
        random::{Random, SystemSource},
        version::Version,
    },
    failpoint,
};

/// Database of the metadata.
pub const DATABASE: &str = "howdah";

/// Part of the socket's name; nothing listens on it.
const PORT: u16 = 5432;

const HOME: &str = "metadata";
const PASSWORD: &str = "metadata.password";
const MARKER: &str = "metadata.engine";
const LOCK_FILE: &str = "metadata.lock";

/// Longest wait for what a former process began.
const LOCK: Duration = Duration::from_secs(120);

/// Longest wait for it to start or stop.
const LIMIT: Duration = Duration::from_secs(60);

/// Where the metadata server lies and what it runs with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Howdah's data directory; made if it is not there.
    pub data_dir: PathBuf,
    /// Where its socket lies; short. See [`super::default_run_directory`].
    pub run_directory: PathBuf,
    /// Directories with PostgreSQL's programs, looked at before the usual ones.
    pub engine_directories: Vec<PathBuf>,
    /// Whether the usual ones are looked at.
    pub system_engines: bool,
    /// User that it runs as; none: `postgres` if this process is root's, else its own.
    pub run_as: Option<String>,
}

impl Options {
    /// The defaults, for everything under `data_dir`.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            run_directory: super::default_run_directory(&data_dir),
            data_dir,
            engine_directories: Vec::new(),
            system_engines: true,
            run_as: None,
        }
    }
}

/// How to reach the metadata.
#[derive(Clone, Debug)]
pub struct Access {
    /// Directory of the Unix socket.
    pub socket_directory: PathBuf,
    /// Port, part of the socket's name.
    pub port: u16,
    /// Role; a superuser.
    pub user: String,
    /// Its password.
    pub password: SecretString,
    /// Database.
    pub database: String,
}

/// The running metadata server. Dropping it leaves the server running.
#[derive(Debug)]
pub struct Embedded {
    cluster: Cluster,
    started: Started,
}

/// Which programs it was started with last.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    directory: PathBuf,
    major: u16,
    minor: u16,
    /// When `postgres` there was written, in nanoseconds since 1970: installed anew,
    /// it may be another version.
    modified: u128,
}

impl Embedded {
    /// Makes, starts or adopts the metadata server, and its database.
    ///
    /// # Errors
    /// POSTGRESQL_NOT_FOUND, METADATA_ENGINE_MISSING, DATA_DIR_UNWRITABLE, DISK_FULL,
    /// SERVER_START_FAILED, SERVER_MISMATCH, CONFIG_INVALID.
    pub async fn open(options: Options) -> Result<Self> {
        let run_as = RunAs::resolve(options.run_as.as_deref())?;
        let place = place(&options, run_as)?;
        let lock = Lock::acquire(place.join(LOCK_FILE), LOCK).await?;
        let password = password(&Directory::open(&place)?)?;
        let discovery = Discovery::new(options.engine_directories, options.system_engines, run_as);
        let version = ensure(&place, &discovery, run_as, &password, &lock).await?;
        let cluster = Cluster {
            programs: version.directory,
            home: place.join(HOME),
            socket_directory: options.run_directory.join(HOME),
            port: PORT,
            password,
            database: DATABASE,
            system_identifier: None,
            run_as,
            points: &EMBEDDED,
        };
        if !matches!(cluster.look()?, Found::Running(_)) {
            configure(&place, &cluster, version.version).await?;
        }
        let started = Box::pin(cluster.start(LIMIT, None)).await?;
        tracing::info!(
            version = %version.version, adopted = started == Started::Before,
            "the metadata server runs"
        );
        Ok(Self { cluster, started })
    }

    /// How to reach it.
    #[must_use]
    pub fn access(&self) -> Access {
        Access {
            socket_directory: self.cluster.socket_directory.clone(),
            port: self.cluster.port,
            user: ADMIN.to_owned(),
            password: self.cluster.password.clone(),
            database: DATABASE.to_owned(),
        }
    }

    /// Whether it was started now or ran before.
    #[must_use]
    pub fn started(&self) -> Started {
        self.started
    }

    /// Returns when its process has ended.
    ///
    /// # Errors
    /// When the process cannot be watched.
    pub async fn ended(&self) -> Result<()> {
        self.cluster.ended().await
    }

    /// Starts it again after it has ended.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub async fn restart(&self) -> Result<Started> {
        Box::pin(self.cluster.start(LIMIT, None)).await
    }

    /// Stops it ("fast"), or finds that it is stopped.
    ///
    /// # Errors
    /// SERVER_UNAVAILABLE when it does not stop in time.
    pub async fn stop(&self) -> Result<()> {
        self.cluster.stop(LIMIT).await
    }
}

/// The data directory, passable for the user that the server runs as.
fn place(options: &Options, run_as: RunAs) -> Result<PathBuf> {
    let mode = match run_as {
        RunAs::Ourselves => PRIVATE,
        RunAs::Other { .. } => 0o711,
    };
    let failed = |error| failure::file(error, &options.data_dir);
    let made = DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(&options.data_dir);
    made.map_err(failed)?;
    let place = options.data_dir.canonicalize().map_err(failed)?;
    settings::check_path(&place)?;
    settings::check_run_directory(&options.run_directory)?;
    Ok(place)
}

/// The password, on the disk before it is used.
fn password(place: &Directory) -> Result<SecretString> {
    if place.read(PASSWORD)?.is_none() {
        let made = SystemSource::default().password()?;
        let text = made.expose_secret().as_bytes();
        place.replace(PASSWORD, text, 0o600, RunAs::Ourselves, || ())?;
        failpoint::hit("embedded.password.after_write");
    }
    let bytes = place.read(PASSWORD)?.unwrap_or_default();
    let text = String::from_utf8(bytes).unwrap_or_default();
    match text.trim() {
        "" => Err(Error::new(
            Reason::SecretKeyInvalid,
            format!(
                "{} holds no password",
                place.path().join(PASSWORD).display()
            ),
        )),
        found => Ok(SecretString::from(found)),
    }
}

/// The programs to start it with; its data directory is there afterwards.
async fn ensure(
    place: &Path,
    discovery: &Discovery,
    run_as: RunAs,
    password: &SecretString,
    lock: &Lock,
) -> Result<Programs> {
    let directory = Directory::open(place)?;
    if let Some(data) = directory.grandchild(HOME, DATA)? {
        let major = initialize::major(&data)?;
        if let Some(marker) = marker(&directory)?
            && Some(marker.major) == major
        {
            return Ok(marker.into());
        }
        return find(&directory, discovery, major).await;
    }
    let engines = discovery.engines().await?;
    let newest = discover::by_major(&engines).into_values().next_back();
    let engine = newest.ok_or_else(|| {
        let message = "no PostgreSQL is installed; `howdah doctor` says how to get one";
        Error::new(Reason::PostgresqlNotFound, message)
    })?;
    let plan = Plan {
        programs: engine.directory.clone(),
        parent: place.to_owned(),
        name: HOME.to_owned(),
        // Nothing else is swept away: an operator may put copies beside it.
        leftovers: format!("{HOME}.unfinished"),
        unfinished: format!("{HOME}.unfinished"),
        run_as,
        durable: true,
        points: &EMBEDDED,
        lock: lock.clone(),
    };
    plan.initdb(password).await?;
    remember(&directory, engine)?;
    Ok(engine.into())
}

/// Programs and what they are.
struct Programs {
    directory: PathBuf,
    version: Version,
}

impl From<Marker> for Programs {
    fn from(marker: Marker) -> Self {
        Self {
            directory: marker.directory,
            version: Version {
                major: marker.major,
                minor: marker.minor,
            },
        }
    }
}

impl From<&Engine> for Programs {
    fn from(engine: &Engine) -> Self {
        Self {
            directory: engine.directory.clone(),
            version: engine.version,
        }
    }
}

/// The newest programs of the data's major version.
async fn find(place: &Directory, discovery: &Discovery, major: Option<u16>) -> Result<Programs> {
    let engines = discovery.engines().await?;
    let newest = major.and_then(|major| discover::by_major(&engines).remove(&major));
    let engine = newest.ok_or_else(|| {
        let major = major.map_or_else(|| "unknown".to_owned(), |major| major.to_string());
        let message = format!(
            "the metadata was made with PostgreSQL {major}, which is not installed any more"
        );
        Error::new(Reason::MetadataEngineMissing, message)
    })?;
    remember(place, engine)?;
    Ok(engine.into())
}

/// The programs of the last start, if they are still the same.
fn marker(place: &Directory) -> Result<Option<Marker>> {
    let bytes = place.read(MARKER)?.unwrap_or_default();
    let marker = serde_json::from_slice::<Marker>(&bytes).ok();
    Ok(marker.filter(|marker| modified(&marker.directory) == Some(marker.modified)))
}

fn remember(place: &Directory, engine: &Engine) -> Result<()> {
    let marker = Marker {
        directory: engine.directory.clone(),
        major: engine.version.major,
        minor: engine.version.minor,
        modified: modified(&engine.directory).unwrap_or_default(),
    };
    let json = serde_json::to_vec(&marker)
        .map_err(|error| Error::internal("cannot write a marker").with_source(error))?;
    place.replace(MARKER, &json, 0o600, RunAs::Ourselves, || ())
}

fn modified(programs: &Path) -> Option<u128> {
    let facts = std::fs::metadata(programs.join("postgres")).ok()?;
    let since = facts.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_nanos())
}

async fn configure(place: &Path, cluster: &Cluster, version: Version) -> Result<()> {
    let text = Contents {
        version,
        home: &cluster.home,
        socket_directory: &cluster.socket_directory,
        port: cluster.port,
        ephemeral: false,
        listen_addresses: &[],
        tls: false,
        parameters: &std::collections::BTreeMap::new(),
    }
    .embedded();
    let gone = cluster.mismatch("its data directory is gone");
    let (place, run_as) = (place.to_owned(), cluster.run_as);
    blocking(move || {
        let data = Directory::open(&place)?.grandchild(HOME, DATA)?;
        configure::write(&data.ok_or(gone)?, FILE, text.as_bytes(), run_as, || {
            failpoint::hit(EMBEDDED.before_configure);
        })
    })
    .await
}
