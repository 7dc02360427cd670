//! The composition root: builds all components, and owns start and shutdown.

mod backup;
mod data_dir;
mod dev;
mod doctor;
mod edge;
mod identity;
mod keys;
mod metadata;
mod orphans;
mod output_file;
mod restore;
mod root;
mod trash;
mod watch;
mod welcome;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{
    data_dir::DataDir,
    metadata::Metadata,
    root::Root,
    watch::{Signals, Watch},
};
use crate::{
    accept::Socket,
    admin,
    api::{
        health::Reporter,
        listener::{BindAddress, Listener},
        operations,
        server::{self, ServingState},
    },
    app::{App, Parts, Settings},
    config::{Config, ListenAddress, LogFormat},
    domain::{
        Error, Reason, Result,
        clock::{Clock, SystemClock},
        host::Host,
        provider::Providers,
        random::{Random, SystemSource},
    },
    providers::local::{
        Local, Settings as LocalSettings, TlsFiles, default_run_directory, embedded, reaper,
    },
    store::{Store, processes::Process, sealing::Keyring},
    telemetry::{self, Telemetry},
};

pub use crate::providers::local::Entry;
pub use backup::{Backup, Destination, backup};
pub use dev::Dev;
pub use doctor::{Listening, doctor, listening};
pub use identity::principal;
pub use orphans::{orphans_drop, orphans_list};
pub use restore::{Restored, restore, restore_former};
pub use root::{Adopted, adopt_root};
pub use trash::{host_here, trash_empty, trash_list, trash_restore, trash_throw};

/// File in the data directory that holds the endpoint of the API while the process serves.
const ENDPOINT: &str = "endpoint";

/// File in the data directory that holds the endpoint of the admin listener.
const ADMIN_ENDPOINT: &str = "admin-endpoint";

/// Longest wait for workers at shutdown. Another process, or the next start, continues their work.
const WORKERS_STOP: Duration = Duration::from_secs(5);

/// Longest wait for the last traces and metrics to be exported.
const TELEMETRY_STOP: Duration = Duration::from_secs(3);

/// Serves until SIGTERM or SIGINT, and then shuts down.
///
/// # Errors
/// When it cannot start. Each cause has its reason.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    Box::pin(serve_with(
        config,
        Greeting::Banner,
        CancellationToken::new(),
    ))
    .await
}

/// Like [`serve`], for a command that serves by itself. `opened` gets the endpoint, and `stop`
/// ends the process.
///
/// # Errors
/// Errors of [`serve`].
pub async fn serve_for(
    config: Config,
    opened: oneshot::Sender<String>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    Box::pin(serve_with(config, Greeting::Endpoint(opened), stop)).await
}

/// What to do when calls are admitted.
enum Greeting {
    /// Print the endpoint, and what to type next.
    Banner,
    /// Send the endpoint to the command that serves.
    Endpoint(oneshot::Sender<String>),
}

impl Greeting {
    fn say(self, config: &Config, address: &BindAddress, admin: &str) {
        match self {
            Self::Banner => welcome::print(config, address, admin),
            // The command may have ended already.
            Self::Endpoint(opened) => drop(opened.send(address.to_string())),
        }
    }
}

async fn serve_with(
    config: Config,
    greeting: Greeting,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // An id of this process. The data directory may be a copy of another one, so it has no such
    // id.
    let instance_id = SystemSource::default().uuid()?;
    let settings = telemetry_settings(&config, instance_id);
    let telemetry = telemetry::init(&settings).context("telemetry")?;
    telemetry::panics::log_panics();
    let served = Box::pin(run(&config, &telemetry, greeting, stop)).await;
    telemetry.shutdown(TELEMETRY_STOP).await;
    Ok(served?)
}

/// Applies the migrations of the metadata database, and returns.
///
/// # Errors
/// METADATA_UNAVAILABLE, METADATA_SCHEMA_MISMATCH, DATA_DIR_IN_USE, DATA_DIR_DAMAGED,
/// SECRET_KEY_INVALID.
pub async fn migrate(config: Config) -> anyhow::Result<()> {
    let data_dir = open_data_dir(&config)?;
    // The key comes before the metadata, because metadata without its key counts as a lost key.
    keys::keyring(&config, &data_dir, &SystemSource::default())?;
    let metadata = Metadata::open(&config, &data_dir).await?;
    let migrated = metadata.store.migrate().await;
    metadata.close().await;
    Ok(migrated?)
}

async fn run(
    config: &Config,
    telemetry: &Telemetry,
    greeting: Greeting,
    stop: CancellationToken,
) -> Result<()> {
    let mut shutdown = Shutdown::new()?.also_by(stop);
    let data_dir = open_data_dir(config)?;
    // Files of a killed process. Another program may use those endpoints by now.
    data_dir.remove(ENDPOINT);
    data_dir.remove(ADMIN_ENDPOINT);
    warn_of_open_doors(config);
    let random: Arc<dyn Random> = Arc::new(SystemSource::default());
    let keyring = keys::keyring(config, &data_dir, random.as_ref())?;
    let worker = data_dir.worker(random.as_ref())?;
    let local = Local::new(local_settings(config))?;
    // The listener is bound first, so that a port in use is found before a server is started.
    let listener = edge::listener(config, &telemetry.meter()).await?;
    let admin = admin_listener(config).await?;
    let metadata = Metadata::open(config, &data_dir).await?;
    let (host, root) = (local.host(), Root::of(&local));
    let store = metadata.store.clone();
    telemetry::pool::observe(&telemetry.meter(), move || store.pool_standing());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let app = App::new(Parts {
        store: metadata.store.clone(),
        providers: providers(local),
        keyring: keyring.clone(),
        process: this_process(config, host, worker, &listener, clock.as_ref()),
        random,
        clock,
        encode: operations::encode,
        settings: app_settings(config),
    });
    let served = attend(
        config,
        telemetry,
        &data_dir,
        &app,
        Kept {
            root: &root,
            keyring: &keyring,
        },
        Doors {
            listener,
            admin,
            greeting,
        },
        &mut shutdown,
    )
    .await;
    app.stop(WORKERS_STOP).await;
    metadata.close().await;
    served
}

/// What metadata has to fit.
struct Kept<'a> {
    root: &'a Root,
    keyring: &'a Keyring,
}

/// The listeners, and the greeting for when they serve.
struct Doors {
    listener: Listener,
    admin: Socket,
    greeting: Greeting,
}

/// The record of this process.
fn this_process(
    config: &Config,
    host: Uuid,
    worker: Uuid,
    listener: &Listener,
    clock: &dyn Clock,
) -> Process {
    let host = Host {
        id: host,
        name: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        ports: config.local.ports.first()..=config.local.ports.last(),
    };
    Process {
        worker,
        host,
        endpoint: listener.local_addr().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        start_time: clock.now(),
    }
}

/// Serves calls, brings the metadata up, and drains at the end.
async fn attend(
    config: &Config,
    telemetry: &Telemetry,
    data_dir: &DataDir,
    app: &App,
    Kept { root, keyring }: Kept<'_>,
    Doors {
        listener,
        admin,
        greeting,
    }: Doors,
    shutdown: &mut Shutdown,
) -> Result<()> {
    let health = Reporter::new(&edge::SERVICES);
    let (readiness, started) = (admin::Readiness::default(), ServingState::default());
    let routes = edge::routes(app, &health, config.server.max_message_bytes)?;
    let (policy, limits) = (edge::policy(config), edge::limits(config));
    let meter = telemetry.meter();
    let service = server::assemble(routes, policy, &limits, &started, app.draining(), &meter)?;
    let drain = CancellationToken::new();
    let address = listener.local_addr().clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(shutdown.hangups());
    tasks.spawn(reaper::run());
    let settings = config.clone();
    tasks.spawn(async move { dev::sweep(&settings).await });
    let admin_address = admin.address().clone();
    let pages = admin::Pages::new(telemetry.registry().clone(), readiness.clone());
    tasks.spawn(admin::serve(admin, pages, drain.clone()));
    let mut serving = Box::pin(listener.run(service, drain.clone()));
    let signals = Signals {
        health: health.clone(),
        readiness: readiness.clone(),
        started: started.clone(),
    };
    let opening = async {
        bring_up(&app.store(), Kept { root, keyring }, app).await?;
        // Before the files are written, because a client that finds them expects calls to be
        // served.
        signals.serving();
        let admin = admin_address.to_string();
        data_dir.replace(ADMIN_ENDPOINT, &format!("{admin}\n"))?;
        let endpoint = welcome::endpoint(config, &address);
        data_dir.replace(ENDPOINT, &format!("{endpoint}\n"))?;
        tracing::info!(%address, "serving");
        greeting.say(config, &address, &admin);
        let watch = Watch {
            app,
            store: &app.store(),
            root,
            keyring,
            signals,
        };
        watch.run().await
    };
    let outcome = tokio::select! {
        () = &mut serving => Err(Error::internal("the listener ended by itself")),
        failed = opening => failed,
        () = shutdown.asked() => Ok(()),
    };
    tracing::info!(
        "shutting down; the servers of instances go on, and `howdah instances stop` stops one"
    );
    health.not_serving();
    readiness.set(false);
    data_dir.remove(ENDPOINT);
    data_dir.remove(ADMIN_ENDPOINT);
    app.drain();
    drain.cancel();
    tokio::select! {
        () = serving => {}
        () = shutdown.asked() => tracing::warn!("asked twice to end: calls are cut off"),
    }
    tasks.shutdown().await;
    outcome
}

/// Waits for the metadata, migrates it, checks the keys and `metadata-id`, and starts the
/// workers. No call is admitted before that.
async fn bring_up(store: &Store, Kept { root, keyring }: Kept<'_>, app: &App) -> Result<()> {
    let prepare = async || {
        store.migrate().await?;
        store.check_keys(keyring).await?;
        root.claim(store).await?;
        app.take_over().await
    };
    metadata::wait_for(prepare).await?;
    app.start();
    Ok(())
}

/// Locks the data directory. Refuses one whose metadata was lost, before anything is created.
fn open_data_dir(config: &Config) -> Result<DataDir> {
    if config.database_url.is_none() {
        embedded::refuse_lost(&config.data_dir)?;
    }
    DataDir::open(&config.data_dir)
}

async fn admin_listener(config: &Config) -> Result<Socket> {
    let ListenAddress::Tcp(address) = config.admin_listen else {
        return Err(Error::internal(
            "admin_listen is checked to be a TCP address",
        ));
    };
    let bound = TcpListener::bind(address).await.and_then(Socket::of);
    bound.map_err(|error| {
        let message = format!(
            "cannot listen on {address} (admin_listen): {}",
            error.kind()
        );
        Error::new(Reason::ConfigInvalid, message).with_source(error)
    })
}

fn warn_of_open_doors(config: &Config) {
    if !config.lets_anybody_in() {
        return;
    }
    let Some(role) = config.anonymous_role() else {
        return;
    };
    let named = !config.bindings().is_empty();
    if rustix::process::geteuid().is_root() || named {
        tracing::warn!(%role, "serving without authentication: every local user has this role");
    }
    if config.insecure {
        tracing::warn!(%role, "serving with --insecure: whoever reaches the port has this role");
    }
}

fn telemetry_settings(config: &Config, instance_id: Uuid) -> telemetry::Settings {
    telemetry::Settings {
        log_format: match config.log.format {
            LogFormat::Json => telemetry::Format::Json,
            LogFormat::Pretty => telemetry::Format::Pretty,
        },
        log_filter: config.log.filter.clone(),
        otlp_endpoint: config.otlp.endpoint.clone(),
        instance_id: Some(instance_id.to_string()),
    }
}

/// All providers of this build. With failpoints, `HOWDAH_SIMULATED_WORLD` names the directory of
/// a simulated world, whose provider is then the default.
fn providers(local: Local) -> Providers {
    let local = Arc::new(local);
    #[cfg(feature = "failpoints")]
    if let Some(world) = std::env::var_os("HOWDAH_SIMULATED_WORLD") {
        let simulated = crate::providers::simulated::Simulated::new(world.into());
        return Providers::new(Arc::new(simulated)).with(local);
    }
    Providers::new(local)
}

fn local_settings(config: &Config) -> LocalSettings {
    let local = &config.local;
    LocalSettings {
        run_directory: run_directory(&local.run_directory, &local.root),
        engine_directories: local.engine_directories.clone(),
        system_engines: local.system_engines,
        run_as: run_as(config),
        listen_addresses: local.listen_addresses.clone(),
        advertise_host: Some(local.advertise_host.clone()),
        tls: local
            .tls_certificate
            .clone()
            .zip(local.tls_key.clone())
            .map(|(certificate, key)| TlsFiles { certificate, key }),
        trash_retention: local.trash_retention,
        ..LocalSettings::new(local.root.clone())
    }
}

/// The user that servers run as; none if this process is not root.
fn run_as(config: &Config) -> Option<String> {
    let root = rustix::process::geteuid().is_root();
    root.then(|| config.local.run_as.clone())
}

/// A directory below `base` for the sockets of `root`. Its name is derived from `root`, so two
/// roots never share one.
fn run_directory(base: &Path, root: &Path) -> PathBuf {
    let own = default_run_directory(root);
    base.join(own.file_name().unwrap_or_default())
}

fn app_settings(config: &Config) -> Settings {
    let operations = &config.operations;
    Settings {
        purge_delay: config.local.purge_delay,
        workers: operations.workers,
        lease: operations.lease,
        scan_interval: operations.scan_interval,
        retention: operations.retention,
        idempotency_retention: operations.idempotency_retention,
        audit_retention: config.audit.retention,
    }
}

/// Waits for SIGTERM and SIGINT. It also handles SIGHUP from the beginning, because the default
/// of SIGHUP ends the process without a drain.
struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
    /// Cancelled by the command that serves.
    stop: CancellationToken,
}

impl Shutdown {
    fn new() -> Result<Self> {
        let listen =
            |kind| signal(kind).map_err(|error| Error::internal("signals").with_source(error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: Some(listen(SignalKind::hangup())?),
            stop: CancellationToken::new(),
        })
    }

    /// Also ends when `stop` is cancelled.
    fn also_by(self, stop: CancellationToken) -> Self {
        Self { stop, ..self }
    }

    /// Logs each SIGHUP. The listener reloads the TLS files itself.
    fn hangups(&mut self) -> impl Future<Output = ()> + use<> {
        let hangup = self.hangup.take();
        async move {
            let Some(mut hangup) = hangup else { return };
            while hangup.recv().await.is_some() {
                tracing::info!("SIGHUP: TLS files are looked at, settings are not read again");
            }
        }
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            // The token is replaced, so that it ends only one wait.
            () = self.stop.cancelled() => self.stop = CancellationToken::new(),
        }
    }
}
