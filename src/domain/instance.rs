//! Instances and their servers.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Error, Reason, Result,
    name::InstanceName,
    provider::{Placement, ServerAddress},
    states::states,
    version::{Version, Wanted},
};

states! {
    /// What is to become of a server.
    ServerGoal {
        /// It is to run; if it does not, it is started again.
        Running = "RUNNING",
        /// It is to stay stopped, with its data.
        Stopped = "STOPPED",
        /// It is to go with its data.
        Gone = "GONE",
    }
}

states! {
    /// What a server is to its instance.
    ServerRole {
        /// Clients reach it. An instance has one.
        Active = "ACTIVE",
        /// It is made to take the place of the active one.
        Successor = "SUCCESSOR",
        /// It was the active one, and still runs.
        Retired = "RETIRED",
    }
}

states! {
    /// Where an instance stands.
    State {
        /// Being made.
        Creating = "CREATING",
        /// Runs and takes connections.
        Ready = "READY",
        /// Stopped by request.
        Stopped = "STOPPED",
        /// On its way up.
        Starting = "STARTING",
        /// On its way down.
        Stopping = "STOPPING",
        /// Being deleted.
        Deleting = "DELETING",
        /// Deleted; its data is kept until the purge.
        Deleted = "DELETED",
        /// Creation failed, or the server does not come up.
        Failed = "FAILED",
    }
}

/// What users name, connect to, subscribe to and authorise.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Resource name.
    pub name: InstanceName,
    /// Unique id, never reused.
    pub uid: Uuid,
    /// Counts the changes of the record; the etag is made of it.
    pub revision: i64,
    /// Labels of the user.
    pub labels: BTreeMap<String, String>,
    /// Notes of the user's tools.
    pub annotations: BTreeMap<String, String>,
    /// Name for people.
    pub display_name: String,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it last changed.
    pub update_time: DateTime<Utc>,
    /// When it was deleted.
    pub delete_time: Option<DateTime<Utc>>,
    /// When its data goes for good.
    pub purge_time: Option<DateTime<Utc>>,
    /// Where it stands.
    pub state: State,
    /// Whether an operation is under way on it.
    pub reconciling: bool,
    /// Version that was asked for.
    pub wanted: Wanted,
    /// PostgreSQL settings of the user.
    pub parameters: BTreeMap<String, String>,
    /// Settings that wait for a restart.
    pub pending_restart: Vec<String>,
    /// Careless of the disk.
    pub ephemeral: bool,
    /// Refuses deletion without force.
    pub deletion_protection: bool,
    /// Raised by each cutover.
    pub epoch: i64,
    /// Its servers, by number.
    pub servers: Vec<Server>,
    /// Where clients connect, once it has started.
    pub endpoint: Option<ServerAddress>,
    /// What drifted, failed or happened.
    pub conditions: Vec<Condition>,
}

impl Instance {
    /// The etag of the present record.
    #[must_use]
    pub fn etag(&self) -> String {
        etag(self.uid, self.revision)
    }

    /// The server that clients reach.
    ///
    /// # Errors
    /// INTERNAL when the record is broken.
    pub fn active(&self) -> Result<&Server> {
        let active = self.servers.iter().find(|server| server.is_active());
        active.ok_or_else(|| Error::internal(format!("instance {} has no active server", self.uid)))
    }

    /// Whether that server of its is to run now.
    #[must_use]
    pub fn is_to_run(&self, server: &Server) -> bool {
        self.delete_time.is_none() && server.started && server.wanted == ServerGoal::Running
    }

    /// The host that its servers live on, if they live on one.
    #[must_use]
    pub fn host(&self) -> Option<Uuid> {
        self.servers.iter().find_map(Server::host)
    }

    /// What it says of that server, if it says anything.
    #[must_use]
    pub fn availability_of(&self, server: &Server) -> Option<&Condition> {
        let kind = server.availability();
        let mut conditions = self.conditions.iter();
        conditions.find(|condition| condition.kind == kind)
    }

    /// its server with that unique id.
    #[must_use]
    pub fn server(&self, uid: Uuid) -> Option<&Server> {
        self.servers.iter().find(|server| server.uid == uid)
    }

    /// Resource name of one of its servers.
    #[must_use]
    pub fn server_name(&self, server: &Server) -> String {
        format!("{}/servers/{}", self.name, server.number)
    }

    /// Whether its active server is known not to take connections: `Available` is FALSE. A server
    /// that waits to be started again leaves the instance READY.
    #[must_use]
    pub fn is_down(&self) -> bool {
        let available = self
            .conditions
            .iter()
            .find(|condition| condition.is_available());
        available.is_some_and(|condition| condition.status == Status::False)
    }

    /// Refuses work on an instance whose server does not run.
    ///
    /// # Errors
    /// INSTANCE_NOT_READY.
    pub fn require_ready(&self) -> Result<()> {
        match self.state {
            State::Ready if !self.is_down() => Ok(()),
            _ => Err(self.not_ready()),
        }
    }

    /// What says that the instance is not ready, and why.
    #[must_use]
    pub fn not_ready(&self) -> Error {
        let message = match self.state {
            State::Ready => {
                "the instance's server is down; it is started again after a pause".to_owned()
            }
            state => format!("the instance is {}, not READY", state.as_str()),
        };
        Error::new(Reason::InstanceNotReady, message).with_resource(self.name.to_string())
    }
}

/// The etag of a record in its present revision.
#[must_use]
pub fn etag(uid: Uuid, revision: i64) -> String {
    let (head, _, _, _) = uid.as_fields();
    format!("{head:08x}-{revision}")
}

/// Refuses a request whose etag is not that of the record; an empty one fits all.
///
/// # Errors
/// ETAG_MISMATCH.
pub fn check_etag(wanted: &str, present: &str) -> Result<()> {
    if wanted.is_empty() || wanted == present {
        return Ok(());
    }
    let message = format!("the resource has changed: its etag is `{present}` now");
    Err(Error::new(Reason::EtagMismatch, message).with_field("etag"))
}

/// A physical PostgreSQL cluster of an instance.
#[derive(Clone, Debug)]
pub struct Server {
    /// Unique id, never reused.
    pub uid: Uuid,
    /// Number within the instance, from 1.
    pub number: i32,
    /// What it is to the instance.
    pub role: ServerRole,
    /// Provider that runs it.
    pub provider: String,
    /// Version that it runs.
    pub version: Version,
    /// Where it lives, for a provider whose servers live on hosts.
    pub placement: Option<Placement>,
    /// PostgreSQL's system identifier, once the data directory exists.
    pub system_identifier: Option<u64>,
    /// Whether it has ever been started.
    pub started: bool,
    /// What is to become of it.
    pub wanted: ServerGoal,
    /// Where clients connect, as it was started last.
    pub address: Option<ServerAddress>,
    /// Since when its host has been silent for so long that nothing is to be expected
    /// of it, if that is so.
    pub host_gone_time: Option<DateTime<Utc>>,
}

impl Server {
    /// Whether clients reach it.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.role == ServerRole::Active
    }

    /// Type of the condition of its instance that says whether it takes connections. That
    /// of a server that is not the active one has its number, and is there only while
    /// there is something to say.
    #[must_use]
    pub fn availability(&self) -> String {
        match self.is_active() {
            true => AVAILABLE.to_owned(),
            false => format!("Server{}Available", self.number),
        }
    }

    /// Whether it takes connections, as seen at `time`.
    #[must_use]
    pub fn available(
        &self,
        status: Status,
        reason: &str,
        message: &str,
        time: DateTime<Utc>,
    ) -> Condition {
        Condition {
            kind: self.availability(),
            status,
            reason: reason.to_owned(),
            message: match self.is_active() {
                true => message.to_owned(),
                false => format!("server {}: {message}", self.number),
            },
            time,
        }
    }

    /// The host that it lives on, if it lives on one.
    #[must_use]
    pub fn host(&self) -> Option<Uuid> {
        self.placement.map(|placement| placement.host)
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It could not be found out.
    Unknown,
}

/// Type of the condition whether the server takes connections.
const AVAILABLE: &str = "Available";

/// An observation about a resource; one per type is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What is observed, in CamelCase.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: Status,
    /// Why, as one UPPER_SNAKE word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// When it was last seen to change.
    pub time: DateTime<Utc>,
}

impl Condition {
    /// Whether a server takes connections, as seen at `time`.
    #[must_use]
    pub fn available(status: Status, reason: &str, message: &str, time: DateTime<Utc>) -> Self {
        Self {
            kind: AVAILABLE.to_owned(),
            status,
            reason: reason.to_owned(),
            message: message.to_owned(),
            time,
        }
    }

    /// Whether it says that the server takes connections, or that it does not.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.kind == AVAILABLE
    }

    /// Whether it says the same, whenever it did.
    #[must_use]
    pub fn says(&self, other: &Self) -> bool {
        (&self.kind, self.status, &self.reason, &self.message)
            == (&other.kind, other.status, &other.reason, &other.message)
    }
}

/// Puts `condition` in the place of the former one of its type.
pub fn set_condition(conditions: &mut Vec<Condition>, condition: Condition) {
    conditions.retain(|former| former.kind != condition.kind);
    conditions.push(condition);
}
