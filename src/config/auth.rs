//! Who may do what.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, Problem};
use crate::domain::{
    access::{self, Scope, Subject},
    principal::Principal,
};

/// Who may do what.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Role of callers that say nothing of themselves, where they are let in: on loopback,
    /// or with `insecure`.
    pub anonymous_role: Role,
    /// Who has which role, and where. None: everybody who is known is an admin.
    pub bindings: Vec<Binding>,
}

/// A role, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Does everything.
    #[default]
    Admin,
    /// Reads like a viewer, creates and changes, but deletes nothing.
    Operator,
    /// Reads everything but secrets.
    Viewer,
    /// Reads how to connect to databases, with their passwords.
    Connector,
    /// Follows the changes of databases.
    Subscriber,
    /// Does nothing.
    None,
}

impl Role {
    const fn role(self) -> Option<access::Role> {
        Some(match self {
            Self::Admin => access::Role::Admin,
            Self::Operator => access::Role::Operator,
            Self::Viewer => access::Role::Viewer,
            Self::Connector => access::Role::Connector,
            Self::Subscriber => access::Role::Subscriber,
            Self::None => return None,
        })
    }
}

/// Gives a role to a caller.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Caller: `cert:IDENTITY`, `uid:USER` or `anonymous`.
    pub principal: String,
    /// Its role.
    pub role: Role,
    /// Name of a project, an instance or a database; `*` for all.
    pub scope: String,
}

impl Binding {
    /// The binding, or what is wrong with it.
    fn read(&self) -> Result<access::Binding, String> {
        let Self {
            principal, scope, ..
        } = self;
        let subject = Principal::parse(principal).ok_or_else(|| {
            format!("`{principal}` is no principal: write cert:IDENTITY, uid:USER or anonymous")
        })?;
        let place = Scope::parse(scope).ok_or_else(|| {
            format!(
                "`{scope}` is no scope: write *, projects/PROJECT, \
                 projects/PROJECT/instances/INSTANCE or \
                 projects/PROJECT/instances/INSTANCE/databases/DATABASE"
            )
        })?;
        let role = self.role.role();
        Ok(access::Binding {
            subject: Subject::Principal(subject),
            role: role.ok_or("`none` is no role of a binding: leave the binding out")?,
            scope: place,
        })
    }
}

impl Config {
    /// The bindings, none where none are given. They were checked.
    #[must_use]
    pub fn bindings(&self) -> Vec<access::Binding> {
        let bindings = self.auth.bindings.iter();
        bindings.filter_map(|binding| binding.read().ok()).collect()
    }

    /// The role of callers that say nothing of themselves; none where they are not let in.
    #[must_use]
    pub fn anonymous_role(&self) -> Option<access::Role> {
        let open = self.insecure || self.listen.is_local();
        self.auth.anonymous_role.role().filter(|_| open)
    }
}

/// Refuses bindings that say nothing.
pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    for (index, binding) in config.auth.bindings.iter().enumerate() {
        let number = index + 1;
        if let Err(why) = binding.read() {
            let message = format!("binding {number}: {why}");
            problems.push(Problem::new("auth.bindings", message));
        } else if binding.principal == "anonymous" && !config.insecure && !config.listen.is_local()
        {
            let message = format!(
                "binding {number}: nobody is let in as anonymous at this address without insecure"
            );
            problems.push(Problem::new("auth.bindings", message));
        }
    }
}
