//! A provider for tests: servers of a simulated world, which lives in a directory. The test
//! writes there how long the servers take, when they fail and when they die.
//!
//! `world.json` holds the [`World`], and `UID.json` the state of a server. Clients connect to a
//! real PostgreSQL that the world names.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    domain::{
        Error, Reason, Result,
        engine::{Engine, REQUIRED_TOOLS},
        provider::{
            ADMIN, Advance, Goal, GoalKind, Learnt, Next, Passed, Presence, Present, Provider,
            ServerAddress, ServerSpec, Wait, Waited,
        },
        version::Version,
    },
    failpoint,
    pg::{self, Host, Login, Target, Tls, sql::quote_literal},
};

/// Name of the provider, as in `Server.provider`.
pub const NAME: &str = "simulated";

/// Parameter of an instance that overrides [`World::looks`], except while its server is removed.
const LOOKS: &str = "simulated.looks";

/// Failpoint after each effect, before its result is returned.
const POINT: &str = "simulated.after_effect";

/// All failpoints of this provider.
pub const FAILPOINTS: &[&str] = &[POINT];

/// Failpoints on the way to a goal, in a world where each goal takes an additional look.
#[must_use]
pub const fn towards(_: GoalKind) -> Passed {
    Passed {
        points: FAILPOINTS,
        waits: true,
    }
}

/// Pause between two looks. Servers with the parameter [`LOOKS`] get the longer pause, because
/// tests use many of them at once.
const PAUSE: Duration = Duration::from_millis(200);
const LONG_PAUSE: Duration = Duration::from_secs(3);

/// How often to check whether a server has ended.
const POLL: Duration = Duration::from_millis(50);

/// Longest wait for the PostgreSQL of the world.
const LIMIT: Duration = Duration::from_secs(10);

/// How the world behaves, read at each look.
#[derive(Debug, Deserialize)]
struct World {
    /// Looks that a server needs to reach a goal, in addition to the first one.
    #[serde(default)]
    looks: u32,
    /// How many looks at each server fail with an error that can be retried.
    #[serde(default)]
    failures: u32,
    /// Whether each look fails with an error that cannot be retried.
    #[serde(default)]
    broken: bool,
    /// The real PostgreSQL that all servers share.
    postgresql: Option<PostgreSql>,
    /// Exceptions for single servers.
    #[serde(default)]
    servers: BTreeMap<Uuid, Otherwise>,
}

/// How one server differs from the others of its world.
#[derive(Debug, Default, Deserialize)]
struct Otherwise {
    looks: Option<u32>,
    postgresql: Option<PostgreSql>,
}

#[derive(Debug, Deserialize)]
struct PostgreSql {
    host: String,
    port: u16,
    user: String,
    password: SecretString,
    version: String,
}

/// State of a server in the world.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Server {
    running: bool,
    identifier: Option<u64>,
    /// Looks at the present goal so far.
    looks: u32,
    /// Failed looks so far.
    failures: u32,
}

/// The provider of simulated servers.
#[derive(Debug)]
pub struct Simulated {
    world: PathBuf,
}

impl Simulated {
    /// The provider for the world in that directory.
    #[must_use]
    pub const fn new(world: PathBuf) -> Self {
        Self { world }
    }

    fn world(&self) -> Result<World> {
        let gone = || Error::new(Reason::ServerUnavailable, "the simulated world is away");
        read(&self.world.join("world.json"))?.ok_or_else(gone)
    }

    fn postgresql(&self, server: Option<Uuid>) -> Result<PostgreSql> {
        let none = || {
            Error::new(
                Reason::ServerUnavailable,
                "the simulated world has no server",
            )
        };
        let mut world = self.world()?;
        let own = server.and_then(|uid| world.servers.remove(&uid)?.postgresql);
        own.or(world.postgresql).ok_or_else(none)
    }

    fn place(&self, uid: Uuid) -> PathBuf {
        self.world.join(format!("{uid}.json"))
    }

    fn server(&self, uid: Uuid) -> Result<Option<Server>> {
        read(&self.place(uid))
    }

    /// Replaces the file by a rename, because two processes may write at the same time.
    fn write(&self, uid: Uuid, server: &Server) -> Result<()> {
        let text = serde_json::to_vec(server).map_err(|error| failed(&error))?;
        let unfinished = self.world.join(format!("{uid}.{}.new", std::process::id()));
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, self.place(uid)))
            .map_err(|error| failed(&error))?;
        failpoint::hit(POINT);
        Ok(())
    }

    /// One look at a server that has not reached its goal. `own` is the value of [`LOOKS`]. None
    /// means that the goal can be reached now.
    fn look(&self, uid: Uuid, server: &mut Server, own: Option<u32>) -> Result<Option<Wait>> {
        let world = self.world()?;
        let otherwise = world.servers.get(&uid).and_then(|server| server.looks);
        let looks = own.or(otherwise).unwrap_or(world.looks);
        if world.broken {
            let message = "the simulated server is broken";
            return Err(Error::new(Reason::ServerStartFailed, message));
        }
        if server.failures < world.failures {
            server.failures += 1;
            self.write(uid, server)?;
            let message = "the simulated server is not there for a moment";
            return Err(Error::new(Reason::ServerUnavailable, message));
        }
        if server.looks >= looks {
            server.looks = 0;
            return Ok(None);
        }
        server.looks += 1;
        self.write(uid, server)?;
        Ok(Some(Wait {
            at_most: if own.is_some() { LONG_PAUSE } else { PAUSE },
            percent: 10,
            waits_for: "the simulated world".into(),
            pursued: true,
        }))
    }

    async fn run(&self, spec: &ServerSpec) -> Result<Advance> {
        let mut server = self.server(spec.uid)?.unwrap_or_default();
        if !server.running {
            if let Some(wait) = self.look(spec.uid, &mut server, own_looks(spec))? {
                return Ok(Advance::later(wait));
            }
            server.identifier = Some(self.let_in(spec).await?);
            server.running = true;
            self.write(spec.uid, &server)?;
        }
        Ok(Advance {
            learnt: Learnt {
                system_identifier: server.identifier,
                address: Some(self.address(spec)),
            },
            next: Next::Done,
        })
    }

    /// Creates Howdah's role with the password on record, and returns the system identifier.
    async fn let_in(&self, spec: &ServerSpec) -> Result<u64> {
        let real = self.postgresql(Some(spec.uid))?;
        let target = Target {
            host: Host::Tcp(real.host),
            port: real.port,
            tls: Tls::Disable,
        };
        let login = Login {
            user: real.user,
            password: Some(real.password),
            database: "postgres".to_owned(),
        };
        let client = pg::client::administer(&target, &login, "howdah", LIMIT, LIMIT);
        let client = client.await.map_err(|error| failed(&error))?;
        let password = quote_literal(spec.admin_password.expose_secret());
        let sql = format!(
            "do $make$ begin create role {ADMIN} superuser login;
             exception when duplicate_object then null; end $make$;
             alter role {ADMIN} password {password}"
        );
        client
            .batch_execute(&sql)
            .await
            .map_err(|error| failed(&error))?;
        let sql = "select system_identifier::text from pg_control_system()";
        let row = client
            .query_one(sql, &[])
            .await
            .map_err(|error| failed(&error))?;
        let identifier: String = row.get(0);
        identifier.parse().map_err(|error| failed(&error))
    }

    fn stop(&self, spec: &ServerSpec) -> Result<Advance> {
        let Some(mut server) = self.server(spec.uid)? else {
            return Ok(Advance::done());
        };
        if server.running {
            if let Some(wait) = self.look(spec.uid, &mut server, own_looks(spec))? {
                return Ok(Advance::later(wait));
            }
            server.running = false;
            self.write(spec.uid, &server)?;
        }
        Ok(Advance::done())
    }

    fn remove(&self, spec: &ServerSpec) -> Result<Advance> {
        let Some(mut server) = self.server(spec.uid)? else {
            return Ok(Advance::done());
        };
        if let Some(wait) = self.look(spec.uid, &mut server, None)? {
            return Ok(Advance::later(wait));
        }
        match fs::remove_file(self.place(spec.uid)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&error)),
            _ => {
                failpoint::hit(POINT);
                Ok(Advance::done())
            }
        }
    }
}

#[async_trait]
impl Provider for Simulated {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn engines(&self) -> Result<Vec<Engine>> {
        let version: Version = self.postgresql(None)?.version.parse()?;
        Ok(vec![Engine {
            provider: NAME,
            version,
            directory: self.world.clone(),
            tls: false,
            icu: false,
            extensions: Vec::new(),
            tools: REQUIRED_TOOLS.iter().map(ToString::to_string).collect(),
        }])
    }

    async fn check_parameters(&self, _: Version, _: &BTreeMap<String, String>) -> Result<()> {
        Ok(())
    }

    async fn advance(&self, server: &ServerSpec, goal: Goal, _waited: Waited) -> Result<Advance> {
        match goal {
            Goal::Running => self.run(server).await,
            Goal::Stopped | Goal::StoppedAtAnyCost { .. } => self.stop(server),
            Goal::Gone(_) => self.remove(server),
        }
    }

    async fn inspect(&self, server: &ServerSpec) -> Result<Presence> {
        self.world()?;
        Ok(match self.server(server.uid)? {
            None => Presence::Missing,
            Some(server) if server.running => Presence::Running,
            Some(_) => Presence::Stopped,
        })
    }

    async fn changed(&self, server: &ServerSpec, _: Presence) -> Result<()> {
        while self
            .server(server.uid)?
            .is_some_and(|server| server.running)
        {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn is_of_hosts(&self) -> bool {
        false
    }

    fn address(&self, spec: &ServerSpec) -> ServerAddress {
        let real = self.postgresql(Some(spec.uid)).ok();
        let (host, port) = real.map_or_else(Default::default, |real| (real.host, real.port));
        ServerAddress {
            host,
            port,
            socket_directory: None,
            tls: false,
        }
    }

    async fn present(&self) -> Result<Vec<Present>> {
        Ok(Vec::new())
    }

    async fn empty_trash(&self, _now: DateTime<Utc>) -> Result<()> {
        Ok(())
    }
}

fn own_looks(spec: &ServerSpec) -> Option<u32> {
    spec.parameters.get(LOOKS)?.parse().ok()
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(&error)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

fn failed(error: &dyn std::error::Error) -> Error {
    Error::new(
        Reason::ServerUnavailable,
        "the simulated world cannot be used",
    )
    .with_context(error.to_string())
}
