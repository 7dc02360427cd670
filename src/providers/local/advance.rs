//! How a local server is brought to a goal, look by look.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    SERVER,
    configure::{self, ACCESS, CERTIFICATE, Contents, FILE, KEY, access, is_wide},
    control::{DATA, Found},
    directory::{Directory, blocking},
    failure,
    server::{Local, TRASH},
    sockets, template, trash,
    way::Way,
};
use crate::{
    domain::{
        Error, Reason, Result,
        provider::{Advance, Disposal, Learnt, Next, ServerSpec, Started, Wait},
    },
    failpoint,
};

/// A server whose data goes to the trash is stopped before, in order.
const NO_PATIENCE: Duration = Duration::from_secs(10);

/// Longest first look at a server that stops, and the longest of later ones. Between two
/// looks no worker is held.
const FIRST_LOOK: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(1);

/// How long `pg_ctl` waits for a server that it starts.
const START: Duration = Duration::from_secs(10);

/// Longest look at a server whose process works and that takes no connections yet. Nearly
/// every server starts within that; one that recovers from a crash takes long.
const STARTING: Duration = Duration::from_millis(1500);

/// How often it is looked meanwhile whether its process works.
const STARTING_LOOK: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_secs(2);

impl Local {
    /// Makes the server if it was never there, and starts it.
    pub(super) async fn towards_running(
        &self,
        server: &ServerSpec,
        since: Duration,
    ) -> Result<Advance> {
        let runs = matches!(self.found(server).look().await?, Found::Running(_));
        if !runs {
            self.choose_sockets(server.uid).await?;
        }
        // What its settings in force are shows at the next start.
        let address = (!runs).then(|| self.clients_address(server));
        let moved = address.is_some() && address != server.address;
        if server.system_identifier.is_none() || moved {
            return Ok(Advance {
                learnt: Learnt {
                    system_identifier: Some(self.initialize(server).await?),
                    address,
                },
                next: Next::Later(Wait {
                    at_most: Duration::ZERO,
                    percent: 50,
                    waits_for: "its start".into(),
                    pursued: true,
                }),
            });
        }
        let reached = match runs {
            true => self.attach_within(server, attempt(since)).await,
            false => {
                self.configure(server).await?;
                self.begin_start(server).await
            }
        };
        match reached {
            Ok(true) => Ok(Advance::done()),
            // It has ended meanwhile: it is configured before it is started again.
            Ok(false) => Ok(Advance::later(Wait {
                at_most: Duration::ZERO,
                percent: 50,
                waits_for: "its start".into(),
                pursued: true,
            })),
            // PostgreSQL tries its recovery again and again then, and is never ready.
            Err(error)
                if error.reason() == Reason::ServerUnavailable && self.is_full(server).await? =>
            {
                Err(failure::full(&self.found(server).home).with_source(error))
            }
            Err(error) if self.is_starting(server, &error).await => {
                tracing::info!(server = %server.uid, %error, "a server is still starting");
                Ok(Advance::later(Wait {
                    at_most: PAUSE,
                    percent: 75,
                    waits_for: "the server to take connections".into(),
                    pursued: true,
                }))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a start that did not come to its end goes on.
    async fn is_starting(&self, server: &ServerSpec, error: &Error) -> bool {
        let cluster = self.found(server);
        let goes_on = match cluster.look().await {
            // One that is ready and cannot be reached waits for nothing.
            Ok(Found::Running(file)) => !file.ready || cluster.way() != Way::None,
            Ok(_) | Err(_) => false,
        };
        error.reason() == Reason::ServerUnavailable && goes_on
    }

    /// Starts the server, or finds that it runs, and waits until it takes connections.
    ///
    /// # Errors
    /// SERVER_START_FAILED, PORT_TAKEN, SERVER_MISMATCH, SERVER_UNAVAILABLE,
    /// VERSION_NOT_INSTALLED.
    pub async fn start(&self, server: &ServerSpec) -> Result<Started> {
        self.start_within(server, self.settings.start_timeout).await
    }

    /// Nothing is changed, and no lock is taken: the `pg_ctl` that starts the server holds it.
    async fn attach_within(&self, server: &ServerSpec, limit: Duration) -> Result<bool> {
        self.check(server)?;
        let cluster = self.found(server);
        Box::pin(cluster.attach(Instant::now() + limit)).await
    }

    /// Starts the server and waits until it takes connections. A start that lasts, such as
    /// one that recovers from a crash, goes on without this call, under its `pg_ctl`.
    async fn begin_start(&self, server: &ServerSpec) -> Result<bool> {
        let limit = START.min(self.settings.start_timeout);
        tokio::select! {
            started = self.start_within(server, limit) => started.map(|_| true),
            () = self.until_it_lasts(server) => {
                let message = "the server is still starting";
                Err(Error::new(Reason::ServerUnavailable, message))
            }
        }
    }

    /// Returns when the server's process works, and it has been not ready for long enough.
    async fn until_it_lasts(&self, server: &ServerSpec) {
        let cluster = self.found(server);
        tokio::time::sleep(STARTING).await;
        while !matches!(cluster.look().await, Ok(Found::Running(file)) if !file.ready) {
            tokio::time::sleep(STARTING_LOOK).await;
        }
    }

    async fn start_within(&self, server: &ServerSpec, limit: Duration) -> Result<Started> {
        let engine = self.engine(server.version).await?;
        let lock = self.lock_server(server.uid).await?;
        self.check(server)?;
        let cluster = self.cluster(server, engine.directory);
        Box::pin(cluster.start(limit, Some(&lock))).await
    }

    /// Stops the server in order ("fast"), or finds that it is stopped.
    ///
    /// # Errors
    /// SERVER_NOT_STOPPED when it does not stop in time.
    pub async fn stop(&self, server: &ServerSpec) -> Result<()> {
        if self.found(server).look().await? == Found::Missing {
            return Ok(());
        }
        let _lock = self.lock_server(server.uid).await?;
        self.found(server).stop(self.settings.stop_timeout).await
    }

    /// Stops the server in order.
    pub(super) async fn towards_stopped(
        &self,
        server: &ServerSpec,
        since: Duration,
    ) -> Result<Advance> {
        self.stop_in_order(server, self.settings.stop_timeout, since)
            .await
    }

    /// Stops the server in order, and by force when its patience is over.
    pub(super) async fn towards_stopped_at_any_cost(
        &self,
        server: &ServerSpec,
        patience: Duration,
        since: Duration,
    ) -> Result<Advance> {
        if since < patience {
            match self.stop_in_order(server, patience, since).await {
                Err(error) if error.reason() == Reason::ServerNotStopped => {}
                ended => return ended,
            }
        }
        let _lock = self.lock_server(server.uid).await?;
        self.found(server).stop_at_any_cost(Duration::ZERO).await?;
        Ok(Advance::done())
    }

    async fn stop_in_order(
        &self,
        server: &ServerSpec,
        limit: Duration,
        since: Duration,
    ) -> Result<Advance> {
        if self.found(server).look().await? == Found::Missing {
            return Ok(Advance::done());
        }
        let _lock = self.lock_server(server.uid).await?;
        let most = look(since).min(limit);
        match self.found(server).stop(most).await {
            Ok(()) => Ok(Advance::done()),
            Err(error)
                if error.reason() == Reason::ServerNotStopped
                    && since.saturating_add(most) < limit =>
            {
                Ok(Advance::later(Wait {
                    at_most: PAUSE,
                    percent: 50,
                    waits_for: "the server to stop".into(),
                    pursued: true,
                }))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the data directory, if it is not there, and answers its system identifier.
    ///
    /// # Errors
    /// SERVER_MISMATCH, DISK_FULL, DATA_DIR_UNWRITABLE, VERSION_NOT_INSTALLED.
    pub async fn initialize(&self, server: &ServerSpec) -> Result<u64> {
        let engine = self.engine(server.version).await?;
        let lock = self.lock_server(server.uid).await?;
        let plan = self.plan(server, &engine, lock);
        let present = plan.present(server.version.major).await?;
        match (present, server.system_identifier) {
            (Some(present), None) => Ok(present),
            (Some(present), Some(expected)) if present == expected => Ok(present),
            (Some(_), Some(_)) => Err(self
                .found(server)
                .mismatch("its system identifier is another one")),
            // It was there once: an empty one must not take its place.
            (None, Some(_)) => Err(self.found(server).mismatch("its data directory is gone")),
            (None, None) if server.ephemeral => {
                let template = self.template(&engine).await?;
                match template::clone(&plan, template, &server.admin_password).await {
                    Err(error) if template::may_be_damaged(&error) => {
                        tracing::warn!(%error, "a copy of a template is of no use, it is made anew");
                        self.discard_template(&engine).await?;
                        let template = self.template(&engine).await?;
                        template::clone(&plan, template, &server.admin_password).await
                    }
                    cloned => cloned,
                }
            }
            (None, None) => plan.initdb(&server.admin_password).await,
        }
    }

    /// Writes the settings that Howdah owns. They take effect at the next start.
    ///
    /// # Errors
    /// SERVER_MISMATCH, PARAMETER_INVALID, CONFIG_INVALID, DISK_FULL.
    pub async fn configure(&self, server: &ServerSpec) -> Result<()> {
        let cluster = self.found(server);
        let listen_addresses = self.listen_addresses();
        let text = Contents {
            version: server.version,
            home: &cluster.home,
            socket_directory: &cluster.socket_directory,
            port: cluster.port,
            ephemeral: server.ephemeral,
            listen_addresses: &listen_addresses,
            tls: self.settings.tls.is_some(),
            parameters: &server.parameters,
        }
        .server()?;
        let tls = self.settings.tls.clone();
        let wide = is_wide(&listen_addresses);
        let lock = self.lock_server(server.uid).await?;
        let (servers, uid, run_as) = (self.servers(), server.uid.to_string(), self.run_as);
        let gone = cluster.mismatch("its data directory is gone");
        blocking(move || {
            let data = Directory::open(&servers)?.grandchild(&uid, DATA)?;
            let data = data.ok_or(gone)?;
            let put =
                |name, contents: &[u8]| configure::write(&data, name, contents, run_as, || ());
            if let Some(files) = &tls {
                put(CERTIFICATE, &configure::read(&files.certificate)?)?;
                put(KEY, &configure::read(&files.key)?)?;
            }
            if wide {
                put(ACCESS, access(tls.is_some()).as_bytes())?;
            }
            configure::write(&data, FILE, text.as_bytes(), run_as, || {
                failpoint::hit(SERVER.before_configure);
            })?;
            failpoint::hit("local.configure.after_rename");
            drop(lock);
            Ok(())
        })
        .await
    }

    /// Takes the data away, or finds that it is gone.
    ///
    /// # Errors
    /// SERVER_NOT_STOPPED, SERVER_UNAVAILABLE when it cannot be killed; DATA_DIR_UNWRITABLE.
    pub async fn remove(&self, server: &ServerSpec, disposal: Disposal) -> Result<()> {
        let lock = self.lock_server(server.uid).await?;
        // Someone may have started it again since it was stopped.
        self.found(server).stop_at_any_cost(NO_PATIENCE).await?;
        self.make_directory(TRASH)?;
        let root = self.settings.root.clone();
        let run_directory = self.settings.run_directory.clone();
        let (uid, now) = (server.uid, self.settings.clock.now());
        blocking(move || {
            match disposal {
                Disposal::Trash(now) => trash::throw(&root, uid, now)?,
                Disposal::Delete => trash::delete(&root, uid, now)?,
            }
            sockets::remove(&run_directory, &uid.as_simple().to_string())?;
            lock.remove()
        })
        .await
    }
}

/// Longest look at a server that runs: at first it may be about to be ready, and later one
/// connection is tried.
fn attempt(since: Duration) -> Duration {
    match since.is_zero() {
        true => STARTING,
        false => Duration::ZERO,
    }
}

fn look(since: Duration) -> Duration {
    match since.is_zero() {
        true => FIRST_LOOK,
        false => LOOK,
    }
}
