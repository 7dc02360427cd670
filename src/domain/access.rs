//! Who has which role, and where.

use std::fmt;

use super::{
    name::{ChangeStreamName, DatabaseName, InstanceName, ProjectName},
    principal::Principal,
};

/// A set of permissions with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads everything but secrets.
    Viewer,
    /// Reads how to connect to databases, with their passwords.
    Connector,
    /// Follows the changes of databases.
    Subscriber,
    /// Reads like a viewer, creates and changes, but deletes nothing.
    Operator,
    /// Does everything.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [
        Self::Viewer,
        Self::Connector,
        Self::Subscriber,
        Self::Operator,
        Self::Admin,
    ];

    /// Its name, in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Connector => "connector",
            Self::Subscriber => "subscriber",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A part of the tree of resources: one resource with all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All resources.
    Everything,
    /// A project.
    Project(ProjectName),
    /// An instance.
    Instance(InstanceName),
    /// A database.
    Database(DatabaseName),
    /// A change stream.
    ChangeStream(ChangeStreamName),
}

impl Scope {
    /// Reads `*` or the name of a project, an instance, a database or a change stream; None
    /// for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Everything);
        }
        let project = || text.parse().ok().map(Self::Project);
        let instance = || text.parse().ok().map(Self::Instance);
        let database = || text.parse().ok().map(Self::Database);
        let stream = || text.parse().ok().map(Self::ChangeStream);
        project()
            .or_else(instance)
            .or_else(database)
            .or_else(stream)
    }

    /// Whether the other scope is this one or a part of it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        match self {
            Self::Everything => true,
            Self::Project(project) => other.project().is_some_and(|it| *it == project.project),
            Self::Instance(instance) => other.instance() == Some(instance),
            Self::Database(_) | Self::ChangeStream(_) => self == other,
        }
    }

    fn project(&self) -> Option<&super::name::Id> {
        match self {
            Self::Everything => None,
            Self::Project(name) => Some(&name.project),
            Self::Instance(name) => Some(&name.project),
            Self::Database(name) => Some(&name.instance.project),
            Self::ChangeStream(name) => Some(&name.instance.project),
        }
    }

    const fn instance(&self) -> Option<&InstanceName> {
        match self {
            Self::Everything | Self::Project(_) => None,
            Self::Instance(name) => Some(name),
            Self::Database(name) => Some(&name.instance),
            Self::ChangeStream(name) => Some(&name.instance),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => formatter.write_str("*"),
            Self::Project(name) => name.fmt(formatter),
            Self::Instance(name) => name.fmt(formatter),
            Self::Database(name) => name.fmt(formatter),
            Self::ChangeStream(name) => name.fmt(formatter),
        }
    }
}

/// Whom a binding is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Every caller that has said who it is.
    Authenticated,
    /// This one.
    Principal(Principal),
}

impl Subject {
    /// Whether the principal is meant.
    #[must_use]
    pub fn is(&self, principal: &Principal) -> bool {
        match self {
            Self::Authenticated => principal.is_authenticated(),
            Self::Principal(meant) => meant == principal,
        }
    }
}

/// Gives a role to a principal for a part of the resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Who.
    pub subject: Subject,
    /// What it may do.
    pub role: Role,
    /// Where.
    pub scope: Scope,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    #[test]
    fn scopes_are_names_and_read_back() {
        for text in [
            "*",
            "projects/a",
            "projects/a/instances/b",
            "projects/a/instances/b/databases/c",
            "projects/a/instances/b/changeStreams/c",
        ] {
            assert_eq!(scope(text).to_string(), text);
        }
        for text in [
            "",
            "**",
            "projects",
            "projects/*",
            "projects/a/",
            "projects/a/operations/b",
            "projects/a/instances/B",
        ] {
            assert_eq!(Scope::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_scope_contains_what_is_below_it_and_nothing_else() {
        let tree = [
            "*",
            "projects/a",
            "projects/a/instances/b",
            "projects/a/instances/b/databases/c",
        ];
        for (depth, outer) in tree.iter().enumerate() {
            for (other, inner) in tree.iter().enumerate() {
                assert_eq!(
                    scope(outer).contains(&scope(inner)),
                    depth <= other,
                    "{outer} {inner}"
                );
            }
        }
        for elsewhere in [
            "projects/ab",
            "projects/ab/instances/b",
            "projects/ab/instances/b/databases/c",
        ] {
            assert!(!scope("projects/a").contains(&scope(elsewhere)));
        }
        let instance = scope("projects/a/instances/b");
        assert!(!instance.contains(&scope("projects/a/instances/b2")));
        assert!(!instance.contains(&scope("projects/x/instances/b")));
        let database = scope("projects/a/instances/b/databases/c");
        assert!(!database.contains(&scope("projects/a/instances/x/databases/c")));
    }
}
