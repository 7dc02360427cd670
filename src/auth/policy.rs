//! Which role a principal has, and what a role may do.

use crate::domain::principal::Principal;

use super::Permission;

/// A set of permissions with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// May do everything.
    Admin,
}

impl Role {
    /// Whether the role holds the permission.
    #[must_use]
    pub const fn grants(self, _permission: &Permission) -> bool {
        match self {
            Self::Admin => true,
        }
    }
}

/// Who is let in, and with which role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether callers that show nothing are let in as `anonymous`: on loopback and
    /// Unix sockets, or with `--insecure`.
    pub anonymous_allowed: bool,
}

impl Policy {
    /// The role of a principal, if it has one. Every authenticated principal is an
    /// admin, and so is `anonymous` where it is let in.
    #[must_use]
    pub const fn role(self, principal: &Principal) -> Option<Role> {
        match principal {
            Principal::Howdah | Principal::Unidentified => None,
            Principal::Anonymous if !self.anonymous_allowed => None,
            Principal::Anonymous | Principal::UnixUser { .. } | Principal::Certificate { .. } => {
                Some(Role::Admin)
            }
        }
    }

    /// Whether the principal may do what the permission stands for.
    #[must_use]
    pub fn allows(self, principal: &Principal, permission: &Permission) -> bool {
        self.role(principal)
            .is_some_and(|role| role.grants(permission))
    }
}
