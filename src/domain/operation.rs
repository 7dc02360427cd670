//! Operations as clients see them.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    change_stream::ChangeStream, database::Database, instance::Instance, name::OperationName,
    states::states,
};

states! {
    /// Where an operation stands.
    State {
        /// Waits for a worker, or for its next try.
        Pending = "PENDING",
        /// A worker is on it.
        Running = "RUNNING",
        /// Its finished steps are being taken back.
        Undoing = "UNDOING",
        /// Done.
        Succeeded = "SUCCEEDED",
        /// Given up.
        Failed = "FAILED",
        /// Cancelled, its steps taken back.
        Cancelled = "CANCELLED",
    }
}

impl State {
    /// Whether nothing will happen any more.
    #[must_use]
    pub const fn is_done(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

states! {
    /// Where a stage stands.
    StageState {
        /// Not reached yet.
        Pending = "PENDING",
        /// Under way.
        Running = "RUNNING",
        /// Done.
        Succeeded = "SUCCEEDED",
        /// Given up.
        Failed = "FAILED",
        /// Taken back.
        Undone = "UNDONE",
    }
}

/// A stage of an operation.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Name, unique in the operation.
    pub name: String,
    /// One phrase for people.
    pub title: String,
    /// Its state; none if another release wrote one that this release does not know.
    pub state: Option<StageState>,
    /// When its first try began.
    pub start_time: Option<DateTime<Utc>>,
    /// When it ended.
    pub end_time: Option<DateTime<Utc>>,
    /// Percent done.
    pub progress_percent: i32,
    /// What it waits for, in a few words; empty when it does not wait.
    pub waits_for: String,
}

/// Why an operation ended without success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A [`super::Reason`] by its name.
    pub reason: String,
    /// Message for the caller.
    pub message: String,
}

/// What an operation answers when it succeeds: a picture of the resource then.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// An instance.
    Instance(Box<Instance>),
    /// A database.
    Database(Box<Database>),
    /// A change stream.
    ChangeStream(Box<ChangeStream>),
    /// Nothing is left to show.
    Empty,
}

/// An outcome as it was encoded when the operation ended, so that every later release
/// answers the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Type of the message, as in `google.protobuf.Any`.
    pub type_url: String,
    /// The message.
    pub value: Vec<u8>,
}

/// Encodes an outcome. Refuses a message with a field for secrets.
pub type Encode = fn(Outcome) -> super::Result<Response>;

/// A host on which no process has been seen for so long that nothing is to be expected of
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentHost {
    /// Its unique id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// When a process was seen there last.
    pub seen_time: DateTime<Utc>,
}

/// A long-running operation.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Resource name.
    pub name: OperationName,
    /// Resource that it works on, by name.
    pub target: String,
    /// What it does, in lower case.
    pub verb: String,
    /// Its state; none if another release wrote one that this release does not know.
    pub state: Option<State>,
    /// When it was accepted.
    pub create_time: DateTime<Utc>,
    /// When it ended.
    pub end_time: Option<DateTime<Utc>>,
    /// Its stages, in order.
    pub stages: Vec<Stage>,
    /// Whether a cancellation would be obeyed.
    pub cancellable: bool,
    /// Whether a cancellation was asked for.
    pub cancel_requested: bool,
    /// Which try of the current stage is under way or comes next, from 1.
    pub attempt: i32,
    /// Why the last try failed.
    pub last_error: Option<Failure>,
    /// What it answers, when it succeeded.
    pub response: Option<Response>,
    /// Why it ended without success.
    pub failure: Option<Failure>,
    /// The host that must go on with it, if that is silent.
    pub silent_host: Option<SilentHost>,
}

impl Operation {
    /// Says in its present stage that a host is waited for.
    pub fn wait_for_host(&mut self, host: &SilentHost) {
        let of = |state| move |stage: &Stage| stage.state == Some(state);
        let stages = &mut self.stages;
        let running = stages.iter().position(of(StageState::Running));
        let next = running.or_else(|| stages.iter().position(of(StageState::Pending)));
        // Of one that is taken back, the last stage that is not.
        let next = next.or_else(|| stages.iter().rposition(of(StageState::Succeeded)));
        if let Some(stage) = next.and_then(|position| stages.get_mut(position)) {
            let time = host.seen_time.to_rfc3339_opts(SecondsFormat::Secs, true);
            let SilentHost { id, name, .. } = host;
            stage.waits_for = format!("the host {name} ({id}), silent since {time}");
        }
    }

    /// Whether nothing will happen any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state.map_or(self.end_time.is_some(), State::is_done)
    }
}

/// When another wish of a user for the same resource takes the place of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivesWay {
    /// The other one is refused.
    Never,
    /// While it waits for something outside.
    Waiting,
    /// At any time: no user has asked for it.
    Always,
}

impl GivesWay {
    /// The word in the metadata.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "NEVER",
            Self::Waiting => "WAITING",
            Self::Always => "ALWAYS",
        }
    }
}
