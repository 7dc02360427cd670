//! The port behind which servers come from somewhere.

use std::{borrow::Cow, collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Error, Reason, Result,
    engine::Engine,
    server_log::{Begin, Part},
    version::Version,
};

/// What a provider needs to know of one server. Every value in it was committed to
/// the metadata before an effect uses it.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// Unique id of the server; names its directories.
    pub uid: Uuid,
    /// Provider that it comes from.
    pub provider: String,
    /// Version that it runs.
    pub version: Version,
    /// Where it lives, for a provider whose servers live on hosts.
    pub placement: Option<Placement>,
    /// PostgreSQL settings of the user, by name.
    pub parameters: BTreeMap<String, String>,
    /// Made from a template, and careless of the disk.
    pub ephemeral: bool,
    /// Password of `howdah_admin`, used when it is initialised.
    pub admin_password: SecretString,
    /// PostgreSQL's system identifier once it is known; what is found must match.
    pub system_identifier: Option<u64>,
    /// Where clients connect, as it is on record.
    pub address: Option<ServerAddress>,
    /// Fencing token of the worker, part of the names of unfinished files.
    pub token: i64,
}

/// Where a server lives that is on a host: a machine that runs Howdah. Only a process of
/// that host works on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The host.
    pub host: Uuid,
    /// TCP port, reserved on the host.
    pub port: u16,
}

/// What became of a request to start a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It was down and was started now.
    Now,
    /// It ran before.
    Before,
}

/// What a server is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// There, with the settings on record, and taking connections.
    Running,
    /// Stopped in order.
    Stopped,
    /// Stopped, because it is deleted. One that has not stopped in order within the
    /// patience may be killed: it recovers as after a crash, and what is not logged is
    /// lost.
    StoppedAtAnyCost {
        /// How long it may take in order.
        patience: Duration,
    },
    /// Gone, with its data.
    Gone(Disposal),
}

/// The goals as the plans of operations name them. They are finer than [`Goal`] where a
/// provider has more to do, or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoalKind {
    /// [`Goal::Running`], of a server that is not made yet.
    Made,
    /// [`Goal::Running`], of a server that was there before.
    Running,
    /// Stopped, in order or at any cost.
    Stopped,
    /// [`Goal::Gone`], of a server that is stopped.
    Gone,
    /// [`Goal::Gone`], of a server that may run, because its creation is taken back.
    Discarded,
}

impl GoalKind {
    /// Whether a step of this kind may pursue the goal.
    #[must_use]
    pub const fn is_of(self, goal: &Goal) -> bool {
        match goal {
            Goal::Running => matches!(self, Self::Made | Self::Running),
            Goal::Stopped | Goal::StoppedAtAnyCost { .. } => matches!(self, Self::Stopped),
            Goal::Gone(_) => matches!(self, Self::Gone | Self::Discarded),
        }
    }
}

/// What a provider passes on the way to a goal, when nothing goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// Its failpoints.
    pub points: &'static [&'static str],
    /// Whether it answers [`Next::Later`]; the simulated one in a world where each goal
    /// takes a look more.
    pub waits: bool,
}

/// The failpoints of a provider. The crash table of the tests is made from them and from
/// the plans of operations.
#[derive(Clone, Copy, Debug)]
pub struct Failpoints {
    /// Name of the provider.
    pub provider: &'static str,
    /// All of them.
    pub all: &'static [&'static str],
    /// Those on the way to a goal.
    pub towards: fn(GoalKind) -> Passed,
}

/// How far a look has brought a server.
#[derive(Clone, Debug)]
pub struct Advance {
    /// What became known; it is committed whatever comes next.
    pub learnt: Learnt,
    /// What comes next.
    pub next: Next,
}

/// What became known of a server. What is none stays as it is on record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learnt {
    /// PostgreSQL's system identifier.
    pub system_identifier: Option<u64>,
    /// Where clients connect. It is on record before a server takes connections there.
    pub address: Option<ServerAddress>,
}

/// What comes after a look.
#[derive(Clone, Debug)]
pub enum Next {
    /// The goal is reached.
    Done,
    /// Look again.
    Later(Wait),
}

/// A pause until the server is checked again. No worker is held meanwhile.
#[derive(Clone, Debug)]
pub struct Wait {
    /// Longest pause; zero to go on at once.
    pub at_most: Duration,
    /// Percent of the step that is done.
    pub percent: i32,
    /// What is waited for, in a few words.
    pub waits_for: Cow<'static, str>,
    /// Whether the goal is pursued. It is not while the provider waits for its turn on the
    /// server: the patience of a stop does not begin before.
    pub pursued: bool,
}

/// For how long a step has waited for its goal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waited {
    /// In all, from its first look on; zero at that.
    pub all: Duration,
    /// Since the goal is pursued: without the time in which it waited for its turn.
    pub pursued: Duration,
}

impl From<Duration> for Waited {
    /// A wait in which the goal was pursued from the beginning.
    fn from(time: Duration) -> Self {
        Self {
            all: time,
            pursued: time,
        }
    }
}

impl Advance {
    /// The goal is reached, and nothing new is known.
    #[must_use]
    pub fn done() -> Self {
        Self {
            learnt: Learnt::default(),
            next: Next::Done,
        }
    }

    /// It is to be looked at again, and nothing new is known.
    #[must_use]
    pub fn later(wait: Wait) -> Self {
        Self {
            learnt: Learnt::default(),
            next: Next::Later(wait),
        }
    }
}

/// How far a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// There is no data directory.
    Missing,
    /// There is a data directory, and no process.
    Stopped,
    /// Its process runs and takes connections.
    Running,
    /// As `Running`, but by TCP alone: its Unix socket is gone, and comes back with a
    /// restart.
    SocketGone,
    /// As `Running`. Its Unix socket is where former settings put it, and moves with a restart.
    SocketElsewhere,
}

/// What becomes of the data of a server that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposal {
    /// It stays in the trash for its time, from now on by the metadata database's clock.
    Trash(DateTime<Utc>),
    /// It is deleted, with what the trash holds of that server.
    Delete,
}

/// A server whose data is on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Present {
    /// The server.
    pub uid: Uuid,
    /// Whether a process works in its data directory.
    pub running: bool,
}

/// Howdah's own role on every server; a superuser.
pub const ADMIN: &str = "howdah_admin";

/// Where a server can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerAddress {
    /// Host name or address for clients.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Directory of the Unix socket, which Howdah itself uses on the same host while it is
    /// there.
    pub socket_directory: Option<PathBuf>,
    /// Whether it speaks TLS.
    #[serde(default)]
    pub tls: bool,
}

/// A source of PostgreSQL servers.
///
/// Each method is idempotent, may be dropped at any await and may run twice at the
/// same time: what it began it finishes or finds, under its own lock.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Its name, as in `Server.provider`.
    fn name(&self) -> &'static str;

    /// The installations at hand, newest first.
    async fn engines(&self) -> Result<Vec<Engine>>;

    /// Checks `parameters` against the parameters that `version` has.
    ///
    /// # Errors
    /// PARAMETER_INVALID, PARAMETER_RESERVED.
    async fn check_parameters(
        &self,
        version: Version,
        parameters: &BTreeMap<String, String>,
    ) -> Result<()>;

    /// Brings the server nearer to `goal`, which was `waited` for already, from look
    /// to look. It answers soon: what takes long goes on by itself, and is looked at
    /// again when it is called the next time.
    ///
    /// # Errors
    /// PORT_TAKEN when another port is to be reserved; SERVER_NOT_STOPPED when the server
    /// did not stop in time; SERVER_UNAVAILABLE when it cannot be reached, which is tried
    /// again.
    async fn advance(&self, server: &ServerSpec, goal: Goal, waited: Waited) -> Result<Advance>;

    /// Looks how far the server is, and that it is the one on record.
    async fn inspect(&self, server: &ServerSpec) -> Result<Presence>;

    /// Returns when the server is not in the state `from` any more, above all when its
    /// process has ended. It may return early.
    async fn changed(&self, server: &ServerSpec, from: Presence) -> Result<()>;

    /// Whether its servers live on hosts, each with a [`Placement`]. Those of another
    /// provider are worked on by any process.
    fn is_of_hosts(&self) -> bool;

    /// Where Howdah connects to the server now. The address for clients is on record, from
    /// [`Learnt::address`].
    fn address(&self, server: &ServerSpec) -> ServerAddress;

    /// Reads a part of the server's log.
    ///
    /// # Errors
    /// UNIMPLEMENTED where the provider shows no logs.
    async fn read_log(&self, _: &ServerSpec, _: Begin) -> Result<Part> {
        let message = format!(
            "the provider `{}` shows no logs of its servers",
            self.name()
        );
        Err(Error::new(Reason::Unimplemented, message))
    }

    /// The servers whose data is on this host, whether a record knows them or not.
    async fn present(&self) -> Result<Vec<Present>>;

    /// Deletes what has been in the trash for its time. Both ends of that time are by the
    /// metadata database's clock, which is at `now`: that of a host may be wrong.
    async fn empty_trash(&self, now: DateTime<Utc>) -> Result<()>;
}

/// The providers that this process knows, by name. One is used where none is asked for.
#[derive(Clone)]
pub struct Providers {
    default: &'static str,
    known: BTreeMap<&'static str, Arc<dyn Provider>>,
}

impl Providers {
    /// A registry with the provider that is used where none is asked for.
    #[must_use]
    pub fn new(default: Arc<dyn Provider>) -> Self {
        let name = default.name();
        Self {
            default: name,
            known: BTreeMap::from([(name, default)]),
        }
    }

    /// The same with one more.
    #[must_use]
    pub fn with(mut self, provider: Arc<dyn Provider>) -> Self {
        self.known.insert(provider.name(), provider);
        self
    }

    /// The provider of that name.
    ///
    /// # Errors
    /// UNIMPLEMENTED when this process does not know it.
    pub fn of(&self, name: &str) -> Result<&Arc<dyn Provider>> {
        self.known.get(name).ok_or_else(|| {
            let message = format!("this process does not know the provider `{name}`");
            Error::new(Reason::Unimplemented, message)
        })
    }

    /// The one that is used where none is asked for.
    ///
    /// # Errors
    /// As [`Providers::of`].
    pub fn default(&self) -> Result<&Arc<dyn Provider>> {
        self.of(self.default)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Provider>> {
        self.known.values()
    }
}
