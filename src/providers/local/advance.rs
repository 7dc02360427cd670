//! Brings a local server to a goal. Each call does a bounded part of the work ("a look") and
//! returns; the step engine calls again until the goal is reached.

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

/// Time for a fast shutdown of a server whose data goes to the trash, before it is killed.
const NO_PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for a server to stop in the first look, and in each later look. The worker is
/// released between two looks.
const FIRST_LOOK: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(1);

/// How long `pg_ctl` waits for a server that it starts.
const START: Duration = Duration::from_secs(10);

/// How long a look waits for a server whose process runs but that does not accept connections
/// yet. Nearly every server is ready within that time; crash recovery takes longer.
const STARTING: Duration = Duration::from_millis(1500);

/// How often the look checks, after that time, whether the process runs and is not ready.
const STARTING_LOOK: Duration = Duration::from_millis(100);
/// How long the operation rests before the next look.
const PAUSE: Duration = Duration::from_secs(2);

impl Local {
    /// Creates the server if it never existed, and starts it.
    ///
    /// The address and the system identifier are returned first, in a look that starts nothing:
    /// they must be in the metadata before the server runs.
    pub(super) async fn towards_running(
        &self,
        server: &ServerSpec,
        since: Duration,
    ) -> Result<Advance> {
        let runs = matches!(self.found(server).look().await?, Found::Running(_));
        if !runs {
            self.choose_sockets(server.uid).await?;
        }
        // A changed listen address, socket directory or TLS setting takes effect at the next
        // start, so the address is computed only for a server that is down.
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
            // The server has ended in the meantime. The next look configures it before it starts
            // it again.
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

    /// Whether a start is still in progress although the attempt ended with `error`.
    async fn is_starting(&self, server: &ServerSpec, error: &Error) -> bool {
        let cluster = self.found(server);
        let goes_on = match cluster.look().await {
            // A ready server that cannot be reached would stay unreachable: waiting does not help.
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

    /// Waits for a running server to accept connections. Takes no lock, because it changes
    /// nothing and because the `pg_ctl` that starts the server holds the lock.
    async fn attach_within(&self, server: &ServerSpec, limit: Duration) -> Result<bool> {
        self.check(server)?;
        let cluster = self.found(server);
        Box::pin(cluster.attach(Instant::now() + limit)).await
    }

    /// Starts the server and waits until it accepts connections. A slow start, such as crash
    /// recovery, continues under its `pg_ctl` after this call has returned.
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

    /// Returns when the server's process runs but is still not ready after [`STARTING`].
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

    /// Stops the server with a fast shutdown. Does nothing if it is stopped already.
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

    /// Stops the server with a fast shutdown, look by look.
    pub(super) async fn towards_stopped(
        &self,
        server: &ServerSpec,
        since: Duration,
    ) -> Result<Advance> {
        self.stop_in_order(server, self.settings.stop_timeout, since)
            .await
    }

    /// Stops the server with a fast shutdown, and kills it when `patience` has passed.
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

    /// Creates the data directory if it is missing, and returns its system identifier.
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
            // The data existed once. A new, empty data directory must not replace it.
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

    /// Writes the parameters that Howdah controls. They take effect at the next start.
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

    /// Removes the server's data. Does nothing if the data is gone already.
    ///
    /// # Errors
    /// SERVER_NOT_STOPPED, SERVER_UNAVAILABLE when it cannot be killed; DATA_DIR_UNWRITABLE.
    pub async fn remove(&self, server: &ServerSpec, disposal: Disposal) -> Result<()> {
        let lock = self.lock_server(server.uid).await?;
        // Another process may have started the server again since it was stopped.
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

/// How long one look waits for a running server to accept connections. The first look gives it
/// time to become ready; later looks try one connection only.
fn attempt(since: Duration) -> Duration {
    match since.is_zero() {
        true => STARTING,
        false => Duration::ZERO,
    }
}

/// How long one look waits for a server to stop.
fn look(since: Duration) -> Duration {
    match since.is_zero() {
        true => FIRST_LOOK,
        false => LOOK,
    }
}
