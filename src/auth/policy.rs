//! Which roles a principal has, where, and what a role may do.

use std::sync::Arc;

use crate::domain::{
    access::{Binding, Role, Scope, Subject},
    principal::Principal,
};

use super::Permission;

/// Who reads.
const READERS: &[Role] = &[Role::Viewer, Role::Operator];
/// Who changes things.
const OPERATORS: &[Role] = &[Role::Operator];
/// Admins only.
const ADMINS: &[Role] = &[];

/// The roles that hold each permission, beside `admin`, which holds all. Deletion is for
/// admins, and with it what takes a deletion back.
const RULES: &[(&str, &[Role])] = &[
    ("audit.list", ADMINS),
    ("databases.connect", &[Role::Connector]),
    ("databases.create", OPERATORS),
    ("databases.delete", ADMINS),
    ("databases.get", READERS),
    ("databases.list", READERS),
    ("engines.list", READERS),
    ("instances.create", OPERATORS),
    ("instances.delete", ADMINS),
    ("instances.get", READERS),
    ("instances.list", READERS),
    // A log may hold statements with what is secret in them.
    ("instances.readLogs", OPERATORS),
    ("instances.restart", OPERATORS),
    ("instances.start", OPERATORS),
    ("instances.stop", OPERATORS),
    ("instances.undelete", ADMINS),
    ("operations.cancel", OPERATORS),
    ("operations.delete", ADMINS),
    ("operations.get", READERS),
    ("operations.list", READERS),
    ("operations.wait", READERS),
    ("streams.acknowledge", &[Role::Subscriber]),
    ("streams.create", OPERATORS),
    ("streams.delete", ADMINS),
    ("streams.get", READERS),
    ("streams.list", READERS),
    ("streams.subscribe", &[Role::Subscriber]),
];

/// The permissions that a rule mentions.
pub fn ruled() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|(permission, _)| *permission)
}

/// Whether the role holds the permission. One without a rule is the admins' alone.
#[must_use]
pub fn grants(role: Role, permission: &Permission) -> bool {
    if role == Role::Admin {
        return true;
    }
    let mut rules = RULES.iter();
    let rule = rules.find(|(name, _)| *name == permission.as_str());
    rule.is_some_and(|(_, roles)| roles.contains(&role))
}

/// Who is let in, and with which roles. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Policy(Arc<[Binding]>);

impl Policy {
    /// Without bindings of the operator's: whoever has said who it is is an admin.
    /// `anonymous` is the role of callers that show nothing; none where they are not let
    /// in.
    #[must_use]
    pub fn built_in(anonymous: Option<Role>) -> Self {
        let everybody = Binding {
            subject: Subject::Authenticated,
            role: Role::Admin,
            scope: Scope::Everything,
        };
        Self::of(vec![everybody], anonymous)
    }

    /// With these bindings, and the role of callers that show nothing.
    #[must_use]
    pub fn of(mut bindings: Vec<Binding>, anonymous: Option<Role>) -> Self {
        bindings.extend(anonymous.map(|role| Binding {
            subject: Subject::Principal(Principal::Anonymous),
            role,
            scope: Scope::Everything,
        }));
        Self(bindings.into())
    }

    /// Whether it is known who the caller is, or it has a role all the same.
    #[must_use]
    pub fn admits(&self, principal: &Principal) -> bool {
        principal.is_authenticated() || self.of_principal(principal).next().is_some()
    }

    /// Whether the principal has the permission on that scope.
    #[must_use]
    pub fn allows(&self, principal: &Principal, permission: &Permission, scope: &Scope) -> bool {
        self.of_principal(principal)
            .any(|binding| grants(binding.role, permission) && binding.scope.contains(scope))
    }

    /// Whether the principal has the permission on any scope.
    #[must_use]
    pub fn allows_anywhere(&self, principal: &Principal, permission: &Permission) -> bool {
        self.of_principal(principal)
            .any(|binding| grants(binding.role, permission))
    }

    fn of_principal(&self, principal: &Principal) -> impl Iterator<Item = &Binding> {
        let bindings = self.0.iter();
        bindings.filter(|binding| binding.subject.is(principal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(text: &str) -> Permission {
        Permission::parse(text).unwrap()
    }

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    fn known() -> Principal {
        Principal::Certificate {
            identity: "CN=ada".into(),
        }
    }

    #[test]
    fn built_in_everybody_known_is_an_admin() {
        let closed = Policy::built_in(None);
        let delete = permission("instances.delete");
        for principal in [known(), Principal::UnixUser { uid: 7 }] {
            assert!(closed.admits(&principal));
            assert!(closed.allows(&principal, &delete, &Scope::Everything));
        }
        for principal in [
            Principal::Anonymous,
            Principal::Unidentified,
            Principal::Howdah,
        ] {
            assert!(!closed.admits(&principal), "{principal}");
            assert!(!closed.allows_anywhere(&principal, &delete), "{principal}");
        }
    }

    #[test]
    fn anonymous_callers_have_the_role_that_they_are_given() {
        let open = Policy::built_in(Some(Role::Viewer));
        let anonymous = Principal::Anonymous;
        assert!(open.admits(&anonymous));
        assert!(open.allows(&anonymous, &permission("instances.get"), &Scope::Everything));
        assert!(!open.allows_anywhere(&anonymous, &permission("instances.create")));
        // A certificate without an identity does not make its holder anonymous.
        assert!(!open.admits(&Principal::Unidentified));
    }

    #[test]
    fn a_binding_holds_for_its_principal_on_its_scope() {
        let policy = Policy::of(
            vec![Binding {
                subject: Subject::Principal(known()),
                role: Role::Connector,
                scope: scope("projects/a/instances/b"),
            }],
            None,
        );
        let connect = permission("databases.connect");
        let may = |place| policy.allows(&known(), &connect, &scope(place));
        assert!(may("projects/a/instances/b/databases/c"));
        assert!(!may("projects/a/instances/x/databases/c"));
        assert!(!may("projects/a"));
        assert!(!policy.allows(&known(), &connect, &Scope::Everything));
        assert!(policy.allows_anywhere(&known(), &connect));
        assert!(!policy.allows_anywhere(&known(), &permission("databases.get")));
        let other = Principal::UnixUser { uid: 7 };
        assert!(policy.admits(&other));
        assert!(!policy.allows_anywhere(&other, &connect));
    }
}
