//! How each kind of operation is brought about.

use howdah::{
    app::operations::points,
    providers::{FAILPOINTS, local},
};

/// Something that is done to an instance of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Creates it; a durable one, or one that is careless of the disk.
    Create {
        ephemeral: bool,
    },
    /// Creates the database `keeper`, through whose owner it is looked at the server.
    CreateKeeper,
    /// Creates the database `shop`.
    CreateShop,
    /// Deletes the database `shop`.
    DeleteShop,
    /// Creates the change stream `audit` of the database `keeper`.
    CreateStream,
    /// Deletes the change stream `audit`.
    DeleteStream,
    Start,
    Stop,
    Restart,
    /// Deletes it, so that it can be undeleted.
    Delete,
    Undelete,
    /// Deletes it for good.
    Purge,
    /// Kills its server, as a crash would.
    KillServer,
    /// Edits the settings that Howdah owns, so that they have to be written again. Only a
    /// local server has such a file.
    EditSettings,
    /// Creates it on another host, which is gone then.
    CreateElsewhere,
}

/// A way to bring an operation about.
#[derive(Debug)]
pub struct Scenario {
    pub kind: &'static str,
    /// Tells those of one kind apart.
    pub variant: &'static str,
    pub prepare: &'static [Act],
    pub trigger: Act,
    /// Points that it passes besides those of the plan.
    pub more: &'static [&'static str],
    /// Points of the plan that only another variant passes.
    pub without: &'static [&'static str],
}

impl Scenario {
    /// Why it says nothing of servers of that provider, if so.
    pub fn left_out(&self, provider: &str) -> Option<&'static str> {
        if provider == local::NAME {
            return None;
        }
        if self.prepare.contains(&Act::CreateElsewhere) {
            return Some("its servers are on no host that could be gone");
        }
        // Only points of the local provider need it.
        let is_local = |point: &&str| local::FAILPOINTS.contains(point);
        let is_for_local = !self.more.is_empty() && self.more.iter().all(is_local);
        is_for_local.then_some("its servers are not made from templates")
    }

    /// What is done before, to a server of that provider.
    pub fn acts(&self, provider: &str) -> Vec<Act> {
        let acts = self.prepare.iter().copied();
        acts.filter(|act| provider == local::NAME || *act != Act::EditSettings)
            .collect()
    }

    /// The point at which all its effects are there.
    pub fn last_commit(&self) -> String {
        let plans = points(&FAILPOINTS[0]);
        let plan = plans.iter().find(|plan| plan.kind == self.kind).unwrap();
        let mut forward = plan.forward.iter().rev();
        let last = forward.find(|point| point.ends_with(".before_commit"));
        last.unwrap().clone()
    }
}

/// Points of the local provider that have a test of their own.
pub const COVERED_OTHERWISE: &[&str] = &["local.trash.before_delete"];

const EPHEMERAL: Act = Act::Create { ephemeral: true };

const fn scenario(kind: &'static str, prepare: &'static [Act], trigger: Act) -> Scenario {
    Scenario {
        kind,
        variant: "",
        prepare,
        trigger,
        more: &[],
        without: &[],
    }
}

/// All of them; the table test fails for a kind that has none.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        variant: " (ephemeral)",
        more: &[
            "local.template.spawned",
            "local.template.after_initdb",
            "local.template.after_rename",
            "local.initialize.after_clone",
        ],
        without: &["local.initialize.spawned", "local.initialize.after_initdb"],
        ..scenario("instance.create", &[], EPHEMERAL)
    },
    Scenario {
        variant: " (durable)",
        ..scenario("instance.create", &[], Act::Create { ephemeral: false })
    },
    scenario(
        "instance.start",
        &[EPHEMERAL, Act::CreateKeeper, Act::Stop, Act::EditSettings],
        Act::Start,
    ),
    scenario("instance.stop", &[EPHEMERAL, Act::CreateKeeper], Act::Stop),
    scenario(
        "instance.restart",
        &[EPHEMERAL, Act::CreateKeeper, Act::EditSettings],
        Act::Restart,
    ),
    scenario(
        "instance.recover",
        &[EPHEMERAL, Act::CreateKeeper, Act::EditSettings],
        Act::KillServer,
    ),
    scenario(
        "instance.delete",
        &[EPHEMERAL, Act::CreateKeeper],
        Act::Delete,
    ),
    scenario(
        "instance.undelete",
        &[EPHEMERAL, Act::CreateKeeper, Act::Delete, Act::EditSettings],
        Act::Undelete,
    ),
    scenario("instance.remove", &[EPHEMERAL], Act::Purge),
    scenario("instance.purge", &[EPHEMERAL, Act::Delete], Act::Purge),
    scenario("instance.abandon", &[Act::CreateElsewhere], Act::Purge),
    scenario(
        "database.create",
        &[EPHEMERAL, Act::CreateKeeper],
        Act::CreateShop,
    ),
    scenario(
        "database.delete",
        &[EPHEMERAL, Act::CreateKeeper, Act::CreateShop],
        Act::DeleteShop,
    ),
    scenario(
        "change_stream.create",
        &[EPHEMERAL, Act::CreateKeeper],
        Act::CreateStream,
    ),
    scenario(
        "change_stream.delete",
        &[EPHEMERAL, Act::CreateKeeper, Act::CreateStream],
        Act::DeleteStream,
    ),
];
