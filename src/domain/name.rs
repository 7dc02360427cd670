//! Resource ids and resource names (AIP-122).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Error, Reason, Result};

/// Longest resource id in characters.
pub const MAX_ID: usize = 63;

/// A resource id: a lower-case DNS label that begins with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Id(String);

impl Id {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads an id; `what` names it in the error, as in `instance_id`.
    ///
    /// # Errors
    /// NAME_TOO_LONG, NAME_MALFORMED.
    pub fn parse(text: &str, what: &str) -> Result<Self> {
        if text.chars().count() > MAX_ID {
            return Err(Error::new(
                Reason::NameTooLong,
                format!("`{what}` is longer than {MAX_ID} characters"),
            )
            .with_field(what));
        }
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.bytes().all(inner)
            && !text.ends_with('-');
        if !fits {
            return Err(Error::new(
                Reason::NameMalformed,
                format!(
                    "`{what}` must begin with a lower-case letter, hold lower-case letters, \
                     digits and hyphens, and not end with a hyphen"
                ),
            )
            .with_field(what));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// `projects/{project}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProjectName {
    /// Id of the project.
    pub project: Id,
}

/// `projects/{project}/instances/{instance}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceName {
    /// Id of the project.
    pub project: Id,
    /// Id of the instance.
    pub instance: Id,
}

/// `projects/{project}/instances/{instance}/databases/{database}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DatabaseName {
    /// Name of the instance.
    pub instance: InstanceName,
    /// Id of the database.
    pub database: Id,
}

/// `projects/{project}/instances/{instance}/changeStreams/{stream}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChangeStreamName {
    /// Name of the instance.
    pub instance: InstanceName,
    /// Id of the change stream.
    pub stream: Id,
}

/// `projects/{project}/operations/{operation}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OperationName {
    /// Id of the project.
    pub project: Id,
    /// Id of the operation.
    pub operation: Uuid,
}

impl fmt::Display for ProjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "projects/{}", self.project)
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "projects/{}/instances/{}",
            self.project, self.instance
        )
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/databases/{}", self.instance, self.database)
    }
}

impl fmt::Display for ChangeStreamName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/changeStreams/{}", self.instance, self.stream)
    }
}

impl fmt::Display for OperationName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "projects/{}/operations/{}",
            self.project, self.operation
        )
    }
}

/// The ids of `text` where its other segments are `pattern`'s, in order.
fn ids<'a, const N: usize>(text: &'a str, collections: [&str; N]) -> Result<[&'a str; N]> {
    let wrong = || {
        let form: Vec<String> = collections.iter().map(|name| format!("{name}/*")).collect();
        Error::new(
            Reason::NameMalformed,
            format!("the name must be `{}`", form.join("/")),
        )
    };
    let mut segments = text.split('/');
    let mut found = [""; N];
    for (slot, collection) in found.iter_mut().zip(collections) {
        if segments.next() != Some(collection) {
            return Err(wrong());
        }
        *slot = segments.next().ok_or_else(wrong)?;
    }
    if segments.next().is_some() {
        return Err(wrong());
    }
    Ok(found)
}

impl FromStr for ProjectName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let [project] = ids(text, ["projects"])?;
        Ok(Self {
            project: Id::parse(project, "project")?,
        })
    }
}

impl FromStr for InstanceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let [project, instance] = ids(text, ["projects", "instances"])?;
        Ok(Self {
            project: Id::parse(project, "project")?,
            instance: Id::parse(instance, "instance")?,
        })
    }
}

impl FromStr for DatabaseName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let [project, instance, database] = ids(text, ["projects", "instances", "databases"])?;
        let instance = InstanceName {
            project: Id::parse(project, "project")?,
            instance: Id::parse(instance, "instance")?,
        };
        Ok(Self {
            instance,
            database: Id::parse(database, "database")?,
        })
    }
}

impl FromStr for ChangeStreamName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let [project, instance, stream] = ids(text, ["projects", "instances", "changeStreams"])?;
        let instance = InstanceName {
            project: Id::parse(project, "project")?,
            instance: Id::parse(instance, "instance")?,
        };
        Ok(Self {
            instance,
            stream: Id::parse(stream, "change stream")?,
        })
    }
}

impl FromStr for OperationName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let [project, operation] = ids(text, ["projects", "operations"])?;
        let operation = Uuid::try_parse(operation)
            .map_err(|_| Error::new(Reason::NameMalformed, "the id of an operation is a UUID"))?;
        Ok(Self {
            project: Id::parse(project, "project")?,
            operation,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_read_back(p in "[a-z]([a-z0-9-]{0,61}[a-z0-9])?", i in "[a-z]([a-z0-9-]{0,61}[a-z0-9])?") {
            let text = format!("projects/{p}/instances/{i}/databases/{p}");
            prop_assert_eq!(text.parse::<DatabaseName>().unwrap().to_string(), text);
            let text = format!("projects/{p}/instances/{i}/changeStreams/{p}");
            prop_assert_eq!(text.parse::<ChangeStreamName>().unwrap().to_string(), text);
        }

        #[test]
        fn garbage_never_panics(text in ".{0,300}") {
            let _ = text.parse::<InstanceName>();
            let _ = text.parse::<OperationName>();
        }
    }

    #[test]
    fn each_fault_has_its_reason() {
        let reason = |text: &str| text.parse::<InstanceName>().unwrap_err().reason();
        assert_eq!(
            reason("projects/default/instances/Orders"),
            Reason::NameMalformed
        );
        assert_eq!(
            reason("projects/default/instances/a-"),
            Reason::NameMalformed
        );
        assert_eq!(reason("projects/default/instances/"), Reason::NameMalformed);
        assert_eq!(
            reason("projects/default/instances/a/b"),
            Reason::NameMalformed
        );
        let long = format!("projects/default/instances/{}", "a".repeat(64));
        assert_eq!(reason(&long), Reason::NameTooLong);
    }
}
