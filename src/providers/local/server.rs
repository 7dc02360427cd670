//! The local provider: implements the provider port of `domain`.

use std::{
    collections::{BTreeMap, HashSet},
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    NAME, SERVER, configure,
    control::{Cluster, DATA, Found},
    directory::{Directory, PRIVATE, blocking},
    discover::{self, Discovery},
    failure, holders, host, initialize,
    known_parameters::KnownParameters,
    lock::Lock,
    orphans,
    owner::Owner,
    read_log,
    settings::{self, Settings},
    sockets, template,
    trash::Emptying,
    user::RunAs,
    verify::FIRST_DATABASE,
    way::Way,
};
use crate::domain::{
    Error, Reason, Result,
    engine::Engine,
    provider::{
        Advance, Goal, Presence, Present, Provider, ServerAddress, ServerSpec, Wait, Waited,
    },
    server_log::{Begin, Part},
    version::Version,
};

/// Longest wait for another process that makes a template or reads parameters. That takes some
/// seconds.
const SHARED_LOCK: Duration = Duration::from_secs(10);

/// Longest wait for a lock whose last wait has timed out. Its holder may be frozen, and must not
/// delay a worker at each attempt.
const LOCK_AGAIN: Duration = Duration::from_millis(200);

/// How long the removal of a server waits, over all its looks, while another process holds the
/// server's lock. That process may be frozen, and may resume at any time in the middle of a
/// change to the data, so nothing is removed beside it. After that time the operation gets
/// LOCK_TIMEOUT, and fails after a few more attempts with the name of that process.
const LONGEST_HELD: Duration = Duration::from_secs(120);

/// Pause before the next look at a server whose lock another process holds.
const LOCK_PAUSE: Duration = Duration::from_secs(2);

/// Longest wait for a connection to a running server.
const VERIFY: Duration = Duration::from_secs(5);

/// Directories below the root that belong to the user that servers run as.
const DIRECTORIES: [&str; 4] = ["servers", TRASH, TEMPLATES, PARAMETERS];

/// Those that hold nothing which could not be made anew, or nothing at first.
pub(super) const TRASH: &str = "trash";
const TEMPLATES: &str = "templates";
const PARAMETERS: &str = "parameters";

/// The one of lock files, which belongs to Howdah's own user.
pub(super) const LOCKS: &str = "locks";

/// The errors that a start would find below the root directory, if it exists. Changes nothing.
#[must_use]
pub fn damages(root: &Path) -> Vec<Error> {
    if !root.is_dir() {
        return Vec::new();
    }
    let root = match Directory::open(root) {
        Ok(root) => root,
        Err(error) => return vec![error],
    };
    let children = DIRECTORIES.into_iter().chain([LOCKS]);
    let mut damages: Vec<Error> = children.filter_map(|name| root.child(name).err()).collect();
    damages.extend(host::examine(&root).err());
    damages
}

/// The provider of servers on this machine.
#[derive(Debug)]
pub struct Local {
    pub(super) settings: Settings,
    pub(super) run_as: RunAs,
    host: Uuid,
    discovery: Arc<Discovery>,
    known_parameters: KnownParameters,
    emptying: Arc<Emptying>,
    /// Names of the locks whose last wait timed out: see [`LOCK_AGAIN`].
    held_elsewhere: Mutex<HashSet<String>>,
}

impl Local {
    /// Creates the directories and the host's id if they are missing.
    ///
    /// # Errors
    /// CONFIG_INVALID, DATA_DIR_UNWRITABLE, DISK_FULL.
    pub fn new(mut settings: Settings) -> Result<Self> {
        let run_as = RunAs::resolve(settings.run_as.as_deref())?;
        let passable = match run_as {
            RunAs::Ourselves => PRIVATE,
            RunAs::Other { .. } => 0o711,
        };
        let failed = |error| failure::file(error, &settings.root);
        DirBuilder::new()
            .recursive(true)
            .mode(passable)
            .create(&settings.root)
            .map_err(failed)?;
        settings.root = settings.root.canonicalize().map_err(failed)?;
        settings::check_path(&settings.root)?;
        settings::check_run_directory(&settings.run_directory)?;
        let root = Directory::open(&settings.root)?;
        for name in DIRECTORIES {
            root.make(name, PRIVATE, run_as)?;
        }
        root.make(LOCKS, PRIVATE, RunAs::Ourselves)?;
        let configured = settings.engine_directories.clone();
        let discovery = Arc::new(Discovery::new(configured, settings.system_engines, run_as));
        Ok(Self {
            host: host::id(&root)?,
            known_parameters: KnownParameters::default(),
            emptying: Arc::default(),
            held_elsewhere: Mutex::default(),
            settings,
            run_as,
            discovery,
        })
    }

    /// The id of this host, which belongs to `local.root`.
    #[must_use]
    pub fn host(&self) -> Uuid {
        self.host
    }

    /// Which metadata the root directory belongs to.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::of(self.settings.root.clone())
    }

    /// Chooses the installation for a server: its exact version, otherwise the newest minor
    /// version of the same major version, which can use the same data.
    pub(super) async fn engine(&self, version: Version) -> Result<Engine> {
        let engines = self.discovery.engines().await?;
        let exact = engines
            .iter()
            .find(|engine| engine.version == version && engine.usable());
        let newest = discover::by_major(&engines).remove(&version.major);
        exact.or(newest).cloned().ok_or_else(|| {
            let message = format!("PostgreSQL {version} is not installed");
            Error::new(Reason::VersionNotInstalled, message)
        })
    }

    pub(super) fn servers(&self) -> PathBuf {
        self.settings.root.join("servers")
    }

    pub(super) fn socket_directory(&self, server: Uuid) -> PathBuf {
        sockets::of(
            &self.settings.run_directory,
            &server.as_simple().to_string(),
        )
    }

    /// Chooses and makes the directory of the socket for the next start. Only for a server that
    /// is down, because its address and its configuration contain the directory.
    pub(super) async fn choose_sockets(&self, server: Uuid) -> Result<()> {
        let (run_directory, run_as) = (self.settings.run_directory.clone(), self.run_as);
        blocking(move || {
            let name = server.as_simple().to_string();
            sockets::choose(&run_directory, &name, run_as).map(|_| ())
        })
        .await
    }

    /// Acquires the lock of a server.
    pub(super) async fn lock_server(&self, server: Uuid) -> Result<Lock> {
        let longest = self.settings.lock_timeout;
        self.lock(&server.to_string(), longest).await
    }

    /// Acquires a lock below [`LOCKS`]. If that times out, a hung start that holds the lock is
    /// killed and the lock is tried once more.
    async fn lock(&self, name: &str, longest: Duration) -> Result<Lock> {
        let path = self.lock_path(name);
        let limit = match self.held_elsewhere().contains(name) {
            true => LOCK_AGAIN,
            false => longest,
        };
        let mut lock = Lock::acquire(path.clone(), limit).await;
        if lock.is_err() {
            let data = self.servers().join(name).join(DATA);
            let at = path.clone();
            if blocking(move || Ok(holders::end_hung_starts(&at, &data))).await? {
                lock = Lock::acquire(path, LOCK_AGAIN).await;
            }
        }
        match &lock {
            Err(error) if error.reason() == Reason::LockTimeout => {
                self.held_elsewhere().insert(name.to_owned())
            }
            _ => self.held_elsewhere().remove(name),
        };
        lock
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.settings.root.join(LOCKS).join(name)
    }

    fn held_elsewhere(&self) -> MutexGuard<'_, HashSet<String>> {
        let held = self.held_elsewhere.lock();
        held.unwrap_or_else(PoisonError::into_inner)
    }

    async fn towards(&self, server: &ServerSpec, goal: Goal, since: Duration) -> Result<Advance> {
        match goal {
            Goal::Running => self.towards_running(server, since).await,
            Goal::Stopped => self.towards_stopped(server, since).await,
            Goal::StoppedAtAnyCost { patience } => {
                self.towards_stopped_at_any_cost(server, patience, since)
                    .await
            }
            Goal::Gone(disposal) => {
                self.remove(server, disposal).await?;
                Ok(Advance::done())
            }
        }
    }

    /// Whether no space is left to speak of for the data of a server.
    pub(super) async fn is_full(&self, server: &ServerSpec) -> Result<bool> {
        let data = self.found(server).data();
        blocking(move || Ok(failure::is_full(&data))).await
    }

    /// The server as a [`Cluster`]. Only a start needs `programs`.
    pub(super) fn cluster(&self, server: &ServerSpec, programs: PathBuf) -> Cluster {
        Cluster {
            programs,
            home: self.servers().join(server.uid.to_string()),
            socket_directory: self.socket_directory(server.uid),
            // The table `servers` has a constraint that a local server has a port.
            port: server.placement.map_or(0, |placement| placement.port),
            password: server.admin_password.clone(),
            database: FIRST_DATABASE,
            system_identifier: server.system_identifier,
            run_as: self.run_as,
            parameters: server.parameters.clone(),
            points: &SERVER,
        }
    }

    pub(super) fn found(&self, server: &ServerSpec) -> Cluster {
        self.cluster(server, PathBuf::new())
    }

    pub(super) fn plan(
        &self,
        server: &ServerSpec,
        engine: &Engine,
        lock: Lock,
    ) -> initialize::Plan {
        initialize::Plan {
            programs: engine.directory.clone(),
            parent: self.servers(),
            name: server.uid.to_string(),
            unfinished: format!("{}.{}", server.uid, server.token),
            leftovers: format!("{}.", server.uid),
            run_as: self.run_as,
            durable: !server.ephemeral,
            points: &SERVER,
            lock,
        }
    }

    /// The template of an installation; created if it is missing.
    pub(super) async fn template(&self, engine: &Engine) -> Result<PathBuf> {
        let name = template::name(engine);
        let lock = self.lock(&format!("template-{name}"), SHARED_LOCK).await?;
        let templates = self.make_directory(TEMPLATES)?;
        template::ensure(engine, templates, name, self.run_as, lock).await
    }

    /// Removes the template of an installation; the next use makes it anew.
    pub(super) async fn discard_template(&self, engine: &Engine) -> Result<()> {
        let name = template::name(engine);
        let lock = self.lock(&format!("template-{name}"), SHARED_LOCK).await?;
        let templates = self.settings.root.join(TEMPLATES);
        blocking(move || {
            let _lock = lock;
            template::discard(&templates, &name)
        })
        .await
    }

    /// A directory below the root, made if somebody has removed it.
    pub(super) fn make_directory(&self, name: &str) -> Result<PathBuf> {
        let root = Directory::open(&self.settings.root)?;
        let made = root.make(name, PRIVATE, self.run_as)?;
        Ok(made.path().to_owned())
    }

    /// Checks that the data directory belongs to the server on record, by its system identifier.
    pub(super) fn check(&self, server: &ServerSpec) -> Result<()> {
        let servers = Directory::open(&self.servers())?;
        let data = servers.grandchild(&server.uid.to_string(), DATA)?;
        let (Some(data), Some(expected)) = (data, server.system_identifier) else {
            return Ok(());
        };
        if initialize::identifier(&data)? == expected {
            return Ok(());
        }
        Err(self
            .found(server)
            .mismatch("its system identifier is another one"))
    }

    pub(super) fn listen_addresses(&self) -> Vec<std::net::IpAddr> {
        match self.settings.listen_addresses.as_slice() {
            [] => vec![std::net::Ipv4Addr::LOCALHOST.into()],
            given => given.to_vec(),
        }
    }

    /// The address that clients use for a server that is started with the present configuration.
    pub(super) fn clients_address(&self, server: &ServerSpec) -> ServerAddress {
        ServerAddress {
            host: self.advertised(),
            port: self.found(server).port,
            socket_directory: Some(self.socket_directory(server.uid)),
            tls: self.settings.tls.is_some(),
        }
    }

    /// Host name or address that clients get, if `advertise_host` does not name one.
    fn advertised(&self) -> String {
        self.settings.advertise_host.clone().unwrap_or_else(|| {
            let first = self.listen_addresses().into_iter().next();
            let first = first.filter(|address| !address.is_unspecified());
            first.map_or_else(|| "127.0.0.1".to_owned(), |address| address.to_string())
        })
    }
}

/// Of a server that takes connections: where its socket is.
fn present(cluster: &Cluster) -> Presence {
    match (cluster.has_socket(), cluster.socket_elsewhere()) {
        (true, _) => Presence::Running,
        (false, Some(_)) => Presence::SocketElsewhere,
        (false, None) => Presence::SocketGone,
    }
}

/// Whether there is data, but no postmaster works on it.
fn is_down(found: &Found) -> bool {
    matches!(found, Found::Stopped | Found::Blocked(_) | Found::Lingering)
}

#[async_trait]
impl Provider for Local {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn engines(&self) -> Result<Vec<Engine>> {
        self.discovery.engines().await
    }

    async fn check_parameters(
        &self,
        version: Version,
        parameters: &BTreeMap<String, String>,
    ) -> Result<()> {
        if parameters.is_empty() {
            return Ok(());
        }
        for (name, value) in parameters {
            configure::check_name(name)?;
            configure::check_text(name, value)?;
        }
        let engine = self.engine(version).await?;
        self.make_directory(PARAMETERS)?;
        let file = KnownParameters::file(&self.settings.root, &engine);
        let known = match self.known_parameters.known(&file)? {
            Some(known) => known,
            None => {
                let template = self.template(&engine).await?;
                let lock = self.lock(PARAMETERS, SHARED_LOCK).await?;
                let parameters = &self.known_parameters;
                let read = parameters.read(&engine, &template, file, self.run_as, lock);
                match read.await {
                    Err(error) if template::may_be_damaged(&error) => {
                        self.discard_template(&engine).await?;
                        return Err(error);
                    }
                    read => read?,
                }
            }
        };
        parameters
            .iter()
            .try_for_each(|(name, value)| known.check(name, value))
    }

    async fn advance(&self, server: &ServerSpec, goal: Goal, waited: Waited) -> Result<Advance> {
        // A lock that another process holds is no failure: the operation waits without a worker.
        let name = server.uid.to_string();
        let removal = matches!(goal, Goal::Gone(_) | Goal::StoppedAtAnyCost { .. });
        match self.towards(server, goal, waited.pursued).await {
            Err(error) if error.reason() == Reason::LockTimeout => {
                if removal && waited.all > LONGEST_HELD {
                    return Err(error);
                }
                let path = self.lock_path(&name);
                let waits_for = blocking(move || Ok(holders::waited_for(&path))).await?;
                Ok(Advance::later(Wait {
                    at_most: LOCK_PAUSE,
                    percent: 0,
                    waits_for: waits_for.into(),
                    pursued: false,
                }))
            }
            advanced => advanced,
        }
    }

    async fn inspect(&self, server: &ServerSpec) -> Result<Presence> {
        let cluster = self.found(server);
        match cluster.look().await? {
            Found::Missing => Ok(Presence::Missing),
            found if is_down(&found) => {
                self.check(server)?;
                Ok(Presence::Stopped)
            }
            _ => {
                let verify = Box::pin(cluster.verify(Instant::now() + VERIFY));
                // A connection to a frozen backend would not notice that the server has ended.
                let verified = tokio::select! {
                    verified = verify => verified,
                    Ok(()) = cluster.ended() => Err(Error::internal("the server has ended")),
                };
                match verified {
                    // The server has ended during the inspection.
                    Err(_) if is_down(&cluster.look().await?) => Ok(Presence::Stopped),
                    Err(error) if error.reason() != Reason::ServerUnavailable => Err(error),
                    // Sessions that are open can read, others are refused sooner or later.
                    _ if self.is_full(server).await? => Err(failure::full(&cluster.home)),
                    Ok(()) => Ok(present(&cluster)),
                    Err(error) => Err(error),
                }
            }
        }
    }

    async fn changed(&self, server: &ServerSpec, from: Presence) -> Result<()> {
        let had_socket = from == Presence::Running;
        self.found(server).changed(had_socket).await
    }

    fn is_of_hosts(&self) -> bool {
        true
    }

    fn address(&self, server: &ServerSpec) -> ServerAddress {
        let for_clients = self.clients_address(server);
        match self.found(server).way() {
            Way::Loopback(address) => ServerAddress {
                host: address.to_string(),
                socket_directory: None,
                ..for_clients
            },
            Way::Elsewhere(directory) => ServerAddress {
                socket_directory: Some(directory),
                ..for_clients
            },
            Way::Socket | Way::None => for_clients,
        }
    }

    async fn read_log(&self, server: &ServerSpec, begin: Begin) -> Result<Part> {
        let home = self.found(server).home;
        blocking(move || read_log::read(&home, begin)).await
    }

    async fn present(&self) -> Result<Vec<Present>> {
        let root = self.settings.root.clone();
        blocking(move || orphans::present(&root)).await
    }

    async fn empty_trash(&self, now: DateTime<Utc>) -> Result<()> {
        self.make_directory(TRASH)?;
        let root = self.settings.root.clone();
        let kept = self.settings.trash_retention;
        let emptying = self.emptying.clone();
        blocking(move || emptying.empty(&root, now, kept, Instant::now())).await
    }
}
