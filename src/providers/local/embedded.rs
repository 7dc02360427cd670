//! The embedded PostgreSQL server for Howdah's metadata. It is used when no `database_url` is
//! configured.
//!
//! It lives in the data directory: `metadata` is the server's home, `metadata.password` its
//! password, `metadata.engine` the programs of its last start. The server survives a crash of
//! Howdah, and the next process adopts it.

mod archive;
mod engine;
mod exchange;
mod password;

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use secrecy::SecretString;
use tokio::time::Instant;

use self::{engine::Programs, password::Password};
use super::{
    ADMIN, EMBEDDED,
    configure::{self, Contents, FILE},
    control::{Cluster, DATA, Found},
    directory::{Directory, PRIVATE, blocking},
    discover::Discovery,
    failure,
    initialize::Plan,
    lock::Lock,
    settings, sockets,
    user::RunAs,
};
use crate::{
    domain::{Error, Reason, Result, provider::Started, version::Version},
    failpoint,
};

pub use archive::Archive;
pub use exchange::{FORMER, RESTORED};

/// Name of the metadata database.
pub const DATABASE: &str = "howdah";

/// Port in the socket's name; nothing listens on it by TCP.
const PORT: u16 = 5432;

pub(super) const HOME: &str = "metadata";
const LOCK_FILE: &str = "metadata.lock";

/// Marker file in the data directory. It exists while a restore fills a new metadata server,
/// whose database is empty until then and must not be served.
pub const RESTORING: &str = "metadata.restoring";

/// Longest wait for the lock, which programs of a killed process may still hold.
const LOCK: Duration = Duration::from_secs(120);

/// Longest wait for the server to start or to stop.
const LIMIT: Duration = Duration::from_secs(60);

/// How often to check whether the directory of the socket can be created again.
const DIRECTORY_LOOK: Duration = Duration::from_secs(2);

/// Longest wait for the server to stop at the end of the process. Together with the drain of
/// calls it must fit into the time that an orchestrator gives. A server that takes longer goes
/// on stopping, and the next start waits for it.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Where the metadata server lives, and what it runs with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Howdah's data directory; created if it is missing.
    pub data_dir: PathBuf,
    /// Directory of its Unix socket. The path must be short. See
    /// [`super::default_run_directory`].
    pub run_directory: PathBuf,
    /// Directories with PostgreSQL's programs. They come before the usual directories.
    pub engine_directories: Vec<PathBuf>,
    /// Whether the usual directories are searched.
    pub system_engines: bool,
    /// User that the server runs as. None means `postgres` if this process runs as root,
    /// otherwise the user of this process.
    pub run_as: Option<String>,
    /// What to do if the data directory has no metadata server.
    pub absent: Absent,
}

/// What to do if a data directory has no metadata server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Create it, unless files show that one existed before.
    MakeFirst,
    /// Create it in any case.
    Make,
    /// Return METADATA_NOT_FOUND.
    Refuse,
}

/// What the files of a data directory say about a metadata server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// No metadata server was ever created.
    None,
    /// A metadata server existed, and its data is gone or incomplete.
    Lost,
    /// The data is there.
    Present,
}

/// Examines a data directory for a metadata server, without changing it.
///
/// # Errors
/// DATA_DIR_UNWRITABLE when it cannot be read.
pub fn trace(data_dir: &Path) -> Result<Trace> {
    if !data_dir.exists() {
        return Ok(Trace::None);
    }
    let directory = Directory::open(data_dir)?;
    if directory.file(RESTORING)?.is_some() {
        return Ok(Trace::Lost);
    }
    if directory.grandchild(HOME, DATA)?.is_some() {
        return Ok(Trace::Present);
    }
    // The marker is written after the data directory got its final name.
    Ok(match directory.file(engine::MARKER)? {
        Some(_) => Trace::Lost,
        None => Trace::None,
    })
}

/// Refuses a data directory whose metadata was lost. A start would create empty metadata and
/// hide the loss.
///
/// # Errors
/// DATA_DIR_DAMAGED; the message says how to continue.
pub fn refuse_lost(data_dir: &Path) -> Result<()> {
    if trace(data_dir)? != Trace::Lost {
        return Ok(());
    }
    let home = data_dir.join(HOME);
    let restoring = data_dir.join(RESTORING);
    if restoring.exists() {
        let message = format!(
            "a restore into {} did not come to its end: run `howdah metadata restore` again; to \
             begin with none, remove {} and then {}",
            data_dir.display(),
            home.display(),
            restoring.display()
        );
        return Err(Error::new(Reason::DataDirDamaged, message));
    }
    let marker = data_dir.join(engine::MARKER);
    let message = format!(
        "the metadata in {} is gone: put the directory back, or run `howdah metadata restore` \
         with a backup; to begin with none, remove {}",
        home.display(),
        marker.display()
    );
    Err(Error::new(Reason::DataDirDamaged, message))
}

/// Refuses a data directory without metadata.
///
/// # Errors
/// METADATA_NOT_FOUND; DATA_DIR_DAMAGED if the metadata existed once.
pub fn refuse_absent(data_dir: &Path) -> Result<()> {
    refuse_lost(data_dir)?;
    if trace(data_dir)? == Trace::Present {
        return Ok(());
    }
    let message = format!("there is no metadata in {}", data_dir.display());
    Err(Error::new(Reason::MetadataNotFound, message))
}

impl Options {
    /// The defaults, with everything below `data_dir`.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            run_directory: super::default_run_directory(&data_dir),
            data_dir,
            engine_directories: Vec::new(),
            system_engines: true,
            run_as: None,
            absent: Absent::MakeFirst,
        }
    }

    fn discovery(&self, run_as: RunAs) -> Discovery {
        Discovery::new(self.engine_directories.clone(), self.system_engines, run_as)
    }
}

/// How to connect to the metadata server.
#[derive(Clone, Debug)]
pub struct Access {
    /// Directory of the Unix socket.
    pub socket_directory: PathBuf,
    /// Port in the socket's name.
    pub port: u16,
    /// Role, a superuser.
    pub user: String,
    /// Password of the role.
    pub password: SecretString,
    /// Name of the database.
    pub database: String,
}

/// The running metadata server. Dropping it leaves the server running.
#[derive(Debug)]
pub struct Embedded {
    /// Replaced at a restart, because the directory of the socket may change.
    cluster: RwLock<Arc<Cluster>>,
    place: PathBuf,
    run_directory: PathBuf,
    started: Started,
    version: Version,
    discovery: Discovery,
}

impl Embedded {
    /// Creates, starts or adopts the metadata server, and creates its database. A lost password
    /// is replaced by a new one.
    ///
    /// # Errors
    /// POSTGRESQL_NOT_FOUND, METADATA_ENGINE_MISSING, METADATA_NOT_FOUND,
    /// DATA_DIR_UNWRITABLE, DATA_DIR_DAMAGED, DISK_FULL, SERVER_START_FAILED,
    /// SERVER_MISMATCH, CONFIG_INVALID.
    pub async fn open(options: Options) -> Result<Self> {
        let run_as = RunAs::resolve(options.run_as.as_deref())?;
        match options.absent {
            Absent::Make => {}
            Absent::MakeFirst => refuse_lost(&options.data_dir)?,
            Absent::Refuse => refuse_absent(&options.data_dir)?,
        }
        let place = place(&options, run_as)?;
        let lock = Lock::acquire(place.join(LOCK_FILE), LOCK).await?;
        let directory = Directory::open(&place)?;
        let present = directory.grandchild(HOME, DATA)?.is_some();
        let password = Password::load(&directory, present)?;
        let discovery = options.discovery(run_as);
        let programs = match present {
            true => engine::of_data(&directory, &discovery).await?,
            false => engine::newest(&discovery).await?,
        };
        let plan = plan(&place, &programs, run_as, lock);
        if !present {
            plan.initdb(password.get()).await?;
            // After the data directory has its final name: [`trace`] relies on this order.
            engine::remember(&directory, &programs)?;
        }
        let mut cluster = cluster(&options, &place, &programs, run_as, password.get());
        if let Password::Lost(made) = &password {
            password::replace(&cluster, &plan, &directory, made).await?;
        }
        if is_without_socket(&cluster).await? {
            // Before the stop: if no directory can be made, the server would not come up again.
            sockets::choose(&options.run_directory, HOME, run_as)?;
            stop_without_socket(&cluster).await?;
        }
        let ran = matches!(cluster.look().await?, Found::Running(_));
        if !ran {
            cluster.socket_directory = sockets::choose(&options.run_directory, HOME, run_as)?;
            configure(&place, &cluster, programs.version).await?;
        }
        let started = Box::pin(cluster.start(LIMIT, None)).await;
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                let error = password::explain(&cluster, &place, error).await;
                // The server may be up and refuse our connection. If this call started it, it is
                // stopped.
                if !ran && let Err(left) = cluster.stop(STOP_LIMIT).await {
                    tracing::warn!(error = %left, "the metadata server runs on");
                }
                return Err(error);
            }
        };
        tracing::info!(
            version = %programs.version, adopted = started == Started::Before,
            "the metadata server runs"
        );
        Ok(Self {
            cluster: RwLock::new(Arc::new(cluster)),
            place,
            run_directory: options.run_directory,
            started,
            version: programs.version,
            discovery,
        })
    }

    /// Connects to the metadata server that another process runs; none if it does not run.
    /// Creates and starts nothing.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub async fn attach(options: &Options) -> Result<Option<Self>> {
        let run_as = RunAs::resolve(options.run_as.as_deref())?;
        if trace(&options.data_dir)? != Trace::Present {
            return Ok(None);
        }
        let place = place(options, run_as)?;
        let directory = Directory::open(&place)?;
        let discovery = options.discovery(run_as);
        let programs = engine::of_data(&directory, &discovery).await?;
        let password = password::read(&directory)?;
        let password = password.ok_or_else(|| password::lost(&place))?;
        let cluster = cluster(options, &place, &programs, run_as, &password);
        if !matches!(cluster.look().await?, Found::Running(_)) {
            return Ok(None);
        }
        if let Err(error) = cluster.verify(Instant::now() + LIMIT).await {
            return Err(password::explain(&cluster, &place, error).await);
        }
        Ok(Some(Self {
            cluster: RwLock::new(Arc::new(cluster)),
            place,
            run_directory: options.run_directory.clone(),
            started: Started::Before,
            version: programs.version,
            discovery,
        }))
    }

    /// How to connect to the server since its last start.
    #[must_use]
    pub fn access(&self) -> Access {
        let cluster = self.cluster();
        Access {
            socket_directory: cluster.socket_directory.clone(),
            port: cluster.port,
            user: ADMIN.to_owned(),
            password: cluster.password.clone(),
            database: DATABASE.to_owned(),
        }
    }

    fn cluster(&self) -> Arc<Cluster> {
        let cluster = self.cluster.read();
        Arc::clone(&cluster.unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this process started the server or found it running.
    #[must_use]
    pub fn started(&self) -> Started {
        self.started
    }

    /// Returns when the server has ended or has lost its socket, and a directory for the socket
    /// can be made. Without such a directory a restart would not help, so a running server is
    /// left alone.
    ///
    /// # Errors
    /// When the process cannot be watched; CONFIG_INVALID, DISK_FULL.
    pub async fn ended(&self) -> Result<()> {
        self.cluster().changed(true).await?;
        let mut warned = false;
        while let Err(error) = self.choose_sockets().await {
            if error.reason() != Reason::DataDirUnwritable {
                return Err(error);
            }
            if !warned {
                tracing::warn!(
                    %error,
                    "the metadata server has lost its socket or has ended, and no directory for \
                     the socket can be made: a server that runs is left alone, and is \
                     restarted as soon as a directory can be made"
                );
                warned = true;
            }
            tokio::time::sleep(DIRECTORY_LOOK).await;
        }
        Ok(())
    }

    /// Starts the server again after it has ended or lost its socket. The socket may then be in
    /// another directory: see [`Embedded::access`].
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub async fn restart(&self) -> Result<Started> {
        let cluster = self.cluster();
        let lost = is_without_socket(&cluster).await?;
        let runs = matches!(cluster.look().await?, Found::Running(_));
        if runs && !lost {
            return Box::pin(cluster.start(LIMIT, None)).await;
        }
        // Before the stop: if no directory can be made, the server would not come up again.
        let chosen = self.choose_sockets().await?;
        stop_without_socket(&cluster).await?;
        let cluster = Arc::new(Cluster {
            socket_directory: chosen,
            ..Cluster::clone(&cluster)
        });
        configure(&self.place, &cluster, self.version).await?;
        *self.cluster.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&cluster);
        Box::pin(cluster.start(LIMIT, None)).await
    }

    /// Chooses and makes the directory of the socket for the next start. Must not be called
    /// while the server runs and has its socket.
    async fn choose_sockets(&self) -> Result<PathBuf> {
        let (run_directory, run_as) = (self.run_directory.clone(), self.cluster().run_as);
        blocking(move || sockets::choose(&run_directory, HOME, run_as)).await
    }

    /// Stops the server with a fast shutdown. Does nothing if it is stopped already.
    ///
    /// # Errors
    /// SERVER_NOT_STOPPED when it does not stop in time.
    pub async fn stop(&self) -> Result<()> {
        self.cluster().stop(STOP_LIMIT).await
    }
}

/// Stops a metadata server that has lost its socket, the only way to reach it. The next start
/// makes a new socket.
async fn stop_without_socket(cluster: &Cluster) -> Result<()> {
    if !is_without_socket(cluster).await? {
        return Ok(());
    }
    tracing::warn!("the socket of the metadata server is gone, the server is restarted");
    cluster.stop(LIMIT).await
}

/// Whether the server runs and has no socket.
async fn is_without_socket(cluster: &Cluster) -> Result<bool> {
    // A server that is not ready yet may still create its socket.
    let found = cluster.look().await?;
    Ok(matches!(found, Found::Running(file) if file.ready) && !cluster.has_socket())
}

fn cluster(
    options: &Options,
    place: &Path,
    programs: &Programs,
    run_as: RunAs,
    password: &SecretString,
) -> Cluster {
    Cluster {
        programs: programs.directory.clone(),
        home: place.join(HOME),
        socket_directory: sockets::of(&options.run_directory, HOME),
        port: PORT,
        password: password.clone(),
        database: DATABASE,
        system_identifier: None,
        run_as,
        parameters: BTreeMap::new(),
        points: &EMBEDDED,
    }
}

fn plan(place: &Path, programs: &Programs, run_as: RunAs, lock: Lock) -> Plan {
    let unfinished = format!("{HOME}.unfinished");
    Plan {
        programs: programs.directory.clone(),
        parent: place.to_owned(),
        name: HOME.to_owned(),
        // Only this exact name is removed: an operator may keep copies beside the directory.
        leftovers: unfinished.clone(),
        unfinished,
        run_as,
        durable: true,
        points: &EMBEDDED,
        lock,
    }
}

/// Creates the data directory so that the server's user can pass through it, and checks the
/// paths.
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

async fn configure(place: &Path, cluster: &Cluster, version: Version) -> Result<()> {
    let text = Contents {
        version,
        home: &cluster.home,
        socket_directory: &cluster.socket_directory,
        port: cluster.port,
        ephemeral: false,
        listen_addresses: &[],
        tls: false,
        parameters: &BTreeMap::new(),
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
