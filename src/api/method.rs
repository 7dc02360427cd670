//! What the edge knows of each method, read once from the descriptors.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use prost_reflect::{
    DescriptorPool, ExtensionDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value,
};

use crate::{
    auth::permission::{Access, Permission},
    domain::{Error, Result},
    pb,
    telemetry::names,
};

const PERMISSION: &str = "howdah.options.v1.permission";
const SECRET: &str = "howdah.options.v1.secret";
const OPERATION: &str = "google.longrunning.Operation";
const OPERATIONS: &str = "google.longrunning.Operations";
/// Services that everyone may call.
const PUBLIC: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];
/// Permissions of Google's service, which cannot have our annotation.
const OPERATION_METHODS: [(&str, &str, Effect); 5] = [
    ("GetOperation", "operations.get", Effect::Read),
    ("ListOperations", "operations.list", Effect::Read),
    ("WaitOperation", "operations.wait", Effect::Read),
    ("CancelOperation", "operations.cancel", Effect::Mutation),
    ("DeleteOperation", "operations.delete", Effect::Mutation),
];

/// Effect of a call, for the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Changes nothing and returns no secret.
    Read,
    /// Changes a resource.
    Mutation,
    /// Returns a secret.
    Secret,
}

/// A method of a service.
#[derive(Debug)]
pub struct Method {
    /// Full name, `package.Service/Method`.
    pub name: Arc<str>,
    /// Who may call it; none for a method that does not exist.
    pub access: Option<Access>,
    /// Its effect.
    pub effect: Effect,
    /// Whether it streams messages in at least one direction.
    pub streaming: bool,
    /// Whether the caller sends a stream of messages.
    pub client_streaming: bool,
    /// Whether it waits by design.
    pub waits: bool,
}

impl Method {
    /// Whether everyone may call it.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.access == Some(Access::Public)
    }
}

/// All methods, by path.
#[derive(Debug)]
pub struct Methods {
    by_path: HashMap<Box<str>, Arc<Method>>,
    unknown: Arc<Method>,
}

impl Methods {
    /// Reads the descriptors of Howdah's services, health and reflection.
    ///
    /// # Errors
    /// INTERNAL when they cannot be read, or when an annotation is not a permission.
    pub fn load() -> Result<Self> {
        Self::of(&served()?)
    }

    /// Reads the services of a descriptor pool.
    ///
    /// # Errors
    /// As [`Methods::load`].
    pub fn of(pool: &DescriptorPool) -> Result<Self> {
        let extension = |name: &str| {
            pool.get_extension_by_name(name)
                .ok_or_else(|| Error::internal(format!("no option {name}")))
        };
        let (permission, secret) = (extension(PERMISSION)?, extension(SECRET)?);
        let mut by_path = HashMap::new();
        for method in pool
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
        {
            let method = describe(&method, &permission, &secret)?;
            by_path.insert(format!("/{}", method.name).into(), Arc::new(method));
        }
        Ok(Self {
            by_path,
            unknown: Arc::new(unknown()),
        })
    }

    /// The method of a request's path. All unknown paths share one method.
    #[must_use]
    pub fn find(&self, path: &str) -> &Arc<Method> {
        self.by_path.get(path).unwrap_or(&self.unknown)
    }

    /// All methods, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Method>> {
        self.by_path.values()
    }
}

/// Whether a message has a field for secrets, at any depth. An unknown message counts as having
/// one.
///
/// # Errors
/// INTERNAL when the descriptors cannot be read.
pub(super) fn holds_secrets(message: &str) -> Result<bool> {
    let (pool, secret) = pool()?;
    let known = pool.get_message_by_name(message);
    Ok(known.is_none_or(|message| has_secret(&message, secret, &mut Vec::new())))
}

/// The descriptors of all services: Howdah's own, health and reflection.
///
/// # Errors
/// INTERNAL when they cannot be read.
pub(super) fn served() -> Result<DescriptorPool> {
    let mut pool = DescriptorPool::new();
    for set in [
        pb::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ] {
        pool.decode_file_descriptor_set(set).map_err(broken)?;
    }
    Ok(pool)
}

/// The descriptors of our own services, and the option that marks fields with secrets.
///
/// # Errors
/// INTERNAL when they cannot be read.
pub(super) fn pool() -> Result<&'static (DescriptorPool, ExtensionDescriptor)> {
    static POOL: OnceLock<(DescriptorPool, ExtensionDescriptor)> = OnceLock::new();
    if let Some(pool) = POOL.get() {
        return Ok(pool);
    }
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).map_err(broken)?;
    let secret = pool.get_extension_by_name(SECRET);
    let secret = secret.ok_or_else(|| Error::internal(format!("no option {SECRET}")))?;
    Ok(POOL.get_or_init(|| (pool, secret)))
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("the descriptors cannot be read").with_source(error)
}

fn unknown() -> Method {
    Method {
        name: names::OTHER.into(),
        access: None,
        effect: Effect::Read,
        streaming: false,
        client_streaming: false,
        waits: false,
    }
}

fn describe(
    method: &MethodDescriptor,
    permission: &ExtensionDescriptor,
    secret: &ExtensionDescriptor,
) -> Result<Method> {
    let service = method.parent_service().full_name().to_owned();
    let by_hand = OPERATION_METHODS
        .iter()
        .find(|(name, ..)| service == OPERATIONS && *name == method.name());
    let annotated = method
        .options()
        .get_extension(permission)
        .as_str()
        .map(str::to_owned);
    let access = match (by_hand, annotated.as_deref()) {
        _ if PUBLIC.contains(&service.as_str()) => Access::Public,
        (Some((_, text, _)), _) => named(text)?,
        (None, None | Some("")) => Access::Closed,
        (None, Some(text)) => named(text)?,
    };
    Ok(Method {
        name: format!("{service}/{}", method.name()).into(),
        access: Some(access),
        effect: match (by_hand, annotated.as_deref()) {
            (Some((.., effect)), _) => *effect,
            // The statements in a server's log may contain secrets.
            (None, Some(READ_LOGS)) => Effect::Secret,
            (None, _) => effect(method, secret),
        },
        streaming: method.is_client_streaming() || method.is_server_streaming(),
        client_streaming: method.is_client_streaming(),
        waits: service == OPERATIONS && method.name() == "WaitOperation",
    })
}

fn named(text: &str) -> Result<Access> {
    Permission::parse(text)
        .map(Access::Permission)
        .ok_or_else(|| Error::internal(format!("{text} is no permission")))
}

/// Permission to read the logs of servers.
const READ_LOGS: &str = "instances.readLogs";

/// A method that returns an operation is a mutation. A method whose response has a field for
/// secrets returns secrets.
fn effect(method: &MethodDescriptor, secret: &ExtensionDescriptor) -> Effect {
    let output = method.output();
    if output.full_name() == OPERATION {
        Effect::Mutation
    } else if has_secret(&output, secret, &mut Vec::new()) {
        Effect::Secret
    } else {
        Effect::Read
    }
}

fn has_secret(
    message: &MessageDescriptor,
    secret: &ExtensionDescriptor,
    seen: &mut Vec<String>,
) -> bool {
    if seen.iter().any(|name| name == message.full_name()) {
        return false;
    }
    seen.push(message.full_name().to_owned());
    message.fields().any(|field| {
        let marked = *field.options().get_extension(secret) == Value::Bool(true);
        let below = match field.kind() {
            Kind::Message(inner) => has_secret(&inner, secret, seen),
            _ => false,
        };
        marked || below
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(methods: &Methods, path: &str) -> Option<Access> {
        methods.find(path).access.clone()
    }

    #[test]
    fn reads_permissions_effects_and_streams() {
        let methods = Methods::load().unwrap();
        let create = methods.find("/howdah.v1.InstanceService/CreateInstance");
        assert_eq!(create.effect, Effect::Mutation);
        let permission = Permission::parse("instances.create").unwrap();
        assert_eq!(create.access, Some(Access::Permission(permission)));
        let connection = methods.find("/howdah.v1.DatabaseService/GetConnection");
        assert_eq!(connection.effect, Effect::Secret);
        let subscribe = methods.find("/howdah.v1.ChangeStreamService/Subscribe");
        assert!(subscribe.streaming);
        assert_eq!(subscribe.effect, Effect::Read);
        assert!(!create.streaming);
    }

    #[test]
    fn operations_health_and_reflection_are_known() {
        let methods = Methods::load().unwrap();
        let wait = methods.find("/google.longrunning.Operations/WaitOperation");
        assert!(wait.waits);
        assert_eq!(wait.effect, Effect::Read);
        assert_eq!(
            access(&methods, "/grpc.health.v1.Health/Watch"),
            Some(Access::Public)
        );
        for version in ["v1", "v1alpha"] {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            assert_eq!(access(&methods, &path), Some(Access::Public));
        }
        assert_eq!(access(&methods, "/no.Service/Method"), None);
    }
}
