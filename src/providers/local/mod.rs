//! The provider of real `postgres` processes on this machine.
//!
//! Every effect on a server happens under its lock file and is idempotent. A new attempt can
//! tell how far the last one came: files get their final name by a rename, and whether a server
//! runs is found from `postmaster.pid` and the process that it names.

pub mod embedded;
pub mod reaper;
pub mod throwaway;

mod advance;
mod command;
mod configure;
mod control;
mod directory;
mod discover;
mod failure;
mod holders;
mod host;
mod initialize;
mod known_parameters;
mod lock;
mod log;
mod once;
mod orphans;
mod owner;
mod processes;
mod read_log;
mod server;
mod settings;
mod sockets;
mod standalone;
mod start;
mod template;
mod trash;
mod user;
mod value;
mod verify;
mod way;
mod words;

pub use discover::installations;
pub use orphans::Present;
pub use owner::Owner;
pub use server::{Local, damages};
pub use settings::{Settings, TlsFiles, default_run_directory};
pub use trash::{Entry, Trash};

/// Name of the provider, as in `Server.provider`.
pub const NAME: &str = "local";

pub use crate::domain::provider::ADMIN;
use crate::domain::provider::{GoalKind, Passed};

/// Failpoints in the middle of effects, at which a test can kill the process.
pub const FAILPOINTS: &[&str] = &[
    SERVER.spawned,
    SERVER.after_initdb,
    SERVER.after_rename,
    "local.initialize.after_clone",
    SERVER.before_configure,
    "local.configure.after_rename",
    SERVER.start_spawned,
    SERVER.started,
    SERVER.stop_signalled,
    "local.remove.after_rename",
    "local.trash.before_delete",
    TEMPLATE.spawned,
    TEMPLATE.after_initdb,
    TEMPLATE.after_rename,
];

/// Failpoints on the way to a goal, for a durable server. An ephemeral server passes others,
/// because it is cloned from a template.
#[must_use]
pub const fn towards(goal: GoalKind) -> Passed {
    let points: &[&str] = match goal {
        GoalKind::Made => &[
            SERVER.spawned,
            SERVER.after_initdb,
            SERVER.after_rename,
            SERVER.before_configure,
            "local.configure.after_rename",
            SERVER.start_spawned,
            SERVER.started,
        ],
        GoalKind::Running => &[
            SERVER.before_configure,
            "local.configure.after_rename",
            SERVER.start_spawned,
            SERVER.started,
        ],
        GoalKind::Stopped => &[SERVER.stop_signalled],
        GoalKind::Gone => &["local.remove.after_rename"],
        GoalKind::Discarded => &[SERVER.stop_signalled, "local.remove.after_rename"],
    };
    Passed {
        points,
        // Its system identifier is committed in a separate look before it is started.
        waits: matches!(goal, GoalKind::Made),
    }
}

/// The failpoints of the embedded metadata server.
pub const EMBEDDED_FAILPOINTS: &[&str] = &[
    EMBEDDED.spawned,
    EMBEDDED.after_initdb,
    EMBEDDED.after_rename,
    EMBEDDED.before_configure,
    EMBEDDED.start_spawned,
    EMBEDDED.started,
    EMBEDDED.stop_signalled,
    "embedded.password.after_write",
];

/// Names of the failpoints in effects that servers, templates and the metadata server share.
#[derive(Debug)]
struct Points {
    spawned: &'static str,
    after_initdb: &'static str,
    after_rename: &'static str,
    before_configure: &'static str,
    start_spawned: &'static str,
    started: &'static str,
    stop_signalled: &'static str,
}

const SERVER: Points = Points {
    spawned: "local.initialize.spawned",
    after_initdb: "local.initialize.after_initdb",
    after_rename: "local.initialize.after_rename",
    before_configure: "local.configure.before_rename",
    start_spawned: "local.start.after_spawn",
    started: "local.start.after_start",
    stop_signalled: "local.stop.after_spawn",
};

const TEMPLATE: Points = Points {
    spawned: "local.template.spawned",
    after_initdb: "local.template.after_initdb",
    after_rename: "local.template.after_rename",
    ..SERVER
};

const EMBEDDED: Points = Points {
    spawned: "embedded.initialize.spawned",
    after_initdb: "embedded.initialize.after_initdb",
    after_rename: "embedded.initialize.after_rename",
    before_configure: "embedded.configure.before_rename",
    start_spawned: "embedded.start.after_spawn",
    started: "embedded.start.after_start",
    stop_signalled: "embedded.stop.after_spawn",
};
