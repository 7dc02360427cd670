//! The PostgreSQL that keeps Howdah's own metadata, when no other one is named.
//!
//! It lies in the data directory: `metadata` is the server's home,
//! `metadata.password` its password, `metadata.engine` the programs that it was
//! started with last. It outlives a crash of Howdah and is adopted.

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

/// Database of the metadata.
pub const DATABASE: &str = "howdah";

/// Part of the socket's name; nothing listens on it.
const PORT: u16 = 5432;

pub(super) const HOME: &str = "metadata";
const LOCK_FILE: &str = "metadata.lock";

/// File in the data directory as long as a restore makes metadata where there was none.
/// What is there until then is empty, and must not be served.
pub const RESTORING: &str = "metadata.restoring";

/// Longest wait for what a former process began.
const LOCK: Duration = Duration::from_secs(120);

/// Longest wait for it to start or stop.
const LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked whether the directory of its socket can be made again.
const DIRECTORY_LOOK: Duration = Duration::from_secs(2);

/// Longest wait for it to stop: with the drain of calls the end of the process must fit
/// into what an orchestrator gives. It goes on stopping, and the next start finds it.
const STOP_LIMIT: Duration = Duration::from_secs(15);

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
    /// What to do where there is none.
    pub absent: Absent,
}

/// What to do where a data directory has no metadata server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Make it, unless there are signs that there was one.
    MakeFirst,
    /// Make it.
    Make,
    /// Refuse: METADATA_NOT_FOUND.
    Refuse,
}

/// What a data directory shows of a metadata server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Nothing: there was none yet.
    None,
    /// It was there, and its data is gone.
    Lost,
    /// Its data.
    Present,
}

/// What a data directory shows of a metadata server, without a change to it.
///
/// # Errors
/// DATA_DIR_UNWRITABLE when it cannot be looked into.
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
    // Written after the data has its name.
    Ok(match directory.file(engine::MARKER)? {
        Some(_) => Trace::Lost,
        None => Trace::None,
    })
}

/// Refuses a data directory whose metadata was lost: a start with empty metadata would
/// hide that.
///
/// # Errors
/// DATA_DIR_DAMAGED, with the way out.
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
/// METADATA_NOT_FOUND; DATA_DIR_DAMAGED if it was there once.
pub fn refuse_absent(data_dir: &Path) -> Result<()> {
    refuse_lost(data_dir)?;
    if trace(data_dir)? == Trace::Present {
        return Ok(());
    }
    let message = format!("there is no metadata in {}", data_dir.display());
    Err(Error::new(Reason::MetadataNotFound, message))
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
            absent: Absent::MakeFirst,
        }
    }

    fn discovery(&self, run_as: RunAs) -> Discovery {
        Discovery::new(self.engine_directories.clone(), self.system_engines, run_as)
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
    /// Exchanged at a restart, when the socket's directory is another one then.
    cluster: RwLock<Arc<Cluster>>,
    place: PathBuf,
    run_directory: PathBuf,
    started: Started,
    version: Version,
    discovery: Discovery,
}

impl Embedded {
    /// Makes, starts or adopts the metadata server, and its database. A password that
    /// was lost is made anew.
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
            engine::remember(&directory, &programs)?;
        }
        let mut cluster = cluster(&options, &place, &programs, run_as, password.get());
        if let Password::Lost(made) = &password {
            password::replace(&cluster, &plan, &directory, made).await?;
        }
        if is_without_socket(&cluster).await? {
            // Before it is stopped: it may not come back otherwise.
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
                // It may be up and refuse us: what was started for nothing is stopped.
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

    /// The metadata server that another process runs; none if it does not run. Nothing
    /// is made or started.
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

    /// How to reach it, as of its last start.
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

    /// Whether it was started now or ran before.
    #[must_use]
    pub fn started(&self) -> Started {
        self.started
    }

    /// Returns when its process has ended, or its socket is gone, and a directory for its
    /// socket can be made: a server that runs is left alone until then, for it could not
    /// be reached after a restart either.
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

    /// Starts it again after it has ended or its socket was lost. Its socket may lie in
    /// another directory from then on: see [`Embedded::access`].
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
        // Before it is stopped: it may not come back otherwise.
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

    /// Chooses the directory of the socket for the next start, and makes it. Not while it
    /// runs and its socket is there.
    async fn choose_sockets(&self) -> Result<PathBuf> {
        let (run_directory, run_as) = (self.run_directory.clone(), self.cluster().run_as);
        blocking(move || sockets::choose(&run_directory, HOME, run_as)).await
    }

    /// Stops it ("fast"), or finds that it is stopped.
    ///
    /// # Errors
    /// SERVER_NOT_STOPPED when it does not stop in time.
    pub async fn stop(&self) -> Result<()> {
        self.cluster().stop(STOP_LIMIT).await
    }
}

/// Stops a metadata server whose socket was removed, its only way in: the start that comes
/// next makes the socket anew.
async fn stop_without_socket(cluster: &Cluster) -> Result<()> {
    if !is_without_socket(cluster).await? {
        return Ok(());
    }
    tracing::warn!("the socket of the metadata server is gone, the server is restarted");
    cluster.stop(LIMIT).await
}

/// Whether it runs and its socket is gone.
async fn is_without_socket(cluster: &Cluster) -> Result<bool> {
    // Before it is ready, the socket may still be to come.
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
        // Nothing else is swept away: an operator may put copies beside it.
        leftovers: unfinished.clone(),
        unfinished,
        run_as,
        durable: true,
        points: &EMBEDDED,
        lock,
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
