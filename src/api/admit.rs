//! Admission, the beginning of every handler: checks the caller's permission on the resource,
//! and then the fields of the request. A refusal must not reveal whether the resource exists, so
//! nothing is looked up before. The one exception is an operation's resource, and there the
//! response is the same in both cases.

use std::sync::Arc;

use http::Extensions;
use prost::Name;
use tonic::{Request, Status};
use uuid::Uuid;

use super::{
    asked::asked,
    budget::Caller,
    fingerprint::fingerprint,
    layers::{Call, audit},
    validate,
};
use crate::{
    app::{Mutation, Operations, Origin},
    auth::{Permission, Policy, permission::Access},
    domain::{
        Error, Reason, Result,
        access::Scope,
        name::{OperationName, ProjectName},
        principal::Principal,
    },
    pb::{google::longrunning, v1},
};

/// Kinds of resources that requests can name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Project,
    Instance,
    Database,
    ChangeStream,
    /// A change stream, or the instance of a temporary subscription.
    Subscribed,
    /// Permissions on its project count, and those on the resource that it works on: see
    /// [`admit_operation`].
    Operation,
    /// A project, or its collection of operations.
    Operations,
}

impl Kind {
    /// The scope for the permission check. A malformed name has the scope of everything, so only
    /// a principal with the permission everywhere learns what is wrong with the name.
    fn scope(self, name: &str) -> Scope {
        let scope = match self {
            Self::Project => name.parse().map(Scope::Project),
            Self::Instance => name.parse().map(Scope::Instance),
            Self::Database => name.parse().map(Scope::Database),
            Self::ChangeStream => name.parse().map(Scope::ChangeStream),
            Self::Subscribed => {
                let stream = name.parse().map(Scope::ChangeStream);
                stream.or_else(|_| name.parse().map(Scope::Instance))
            }
            Self::Operation => name.parse().map(|name: OperationName| {
                let project = name.project;
                Scope::Project(ProjectName { project })
            }),
            Self::Operations => collection_parent(name).parse().map(Scope::Project),
        };
        scope.unwrap_or(Scope::Everything)
    }
}

/// The project of a collection of operations. Requests may name either of them.
pub(super) fn collection_parent(name: &str) -> &str {
    name.strip_suffix("/operations").unwrap_or(name)
}

/// A request of a method.
pub(super) trait Asks: Name {
    /// Kind of the resource that the permission is checked on.
    const KIND: Kind;

    /// Name of that resource.
    fn resource(&self) -> &str;

    /// Checks the field rules.
    ///
    /// # Errors
    /// INVALID_ARGUMENT.
    fn check(&self) -> Result<(), Status>;
}

/// A request for a change, which a caller may repeat with the same id.
pub(super) trait AsksForChange: Asks + Clone {
    /// The request's id; empty if the caller gave none.
    fn request_id(&mut self) -> &mut String;

    /// Whether the caller only wants a check.
    fn validate_only(&self) -> bool;
}

/// Google's messages have no field rules; the handlers check their fields.
macro_rules! without_rules {
    ($($request:ty: $field:ident, $kind:ident;)*) => {$(
        impl Asks for $request {
            const KIND: Kind = Kind::$kind;

            fn resource(&self) -> &str {
                &self.$field
            }

            fn check(&self) -> Result<(), Status> {
                Ok(())
            }
        }
    )*};
}

macro_rules! with_rules {
    ($($request:ty: $field:ident, $kind:ident;)*) => {$(
        impl Asks for $request {
            const KIND: Kind = Kind::$kind;

            fn resource(&self) -> &str {
                &self.$field
            }

            fn check(&self) -> Result<(), Status> {
                validate::check(self)
            }
        }
    )*};
}

macro_rules! changes {
    ($($request:ty: $field:ident, $kind:ident;)*) => {
        with_rules! { $($request: $field, $kind;)* }
        $(impl AsksForChange for $request {
            fn request_id(&mut self) -> &mut String {
                &mut self.request_id
            }

            fn validate_only(&self) -> bool {
                self.validate_only
            }
        })*
    };
}

changes! {
    v1::CreateInstanceRequest: parent, Project;
    v1::DeleteInstanceRequest: name, Instance;
    v1::UndeleteInstanceRequest: name, Instance;
    v1::StartInstanceRequest: name, Instance;
    v1::StopInstanceRequest: name, Instance;
    v1::RestartInstanceRequest: name, Instance;
    v1::CreateDatabaseRequest: parent, Instance;
    v1::DeleteDatabaseRequest: name, Database;
    v1::CreateChangeStreamRequest: parent, Instance;
    v1::DeleteChangeStreamRequest: name, ChangeStream;
}

with_rules! {
    v1::GetInstanceRequest: name, Instance;
    v1::ListInstancesRequest: parent, Project;
    v1::ReadInstanceLogRequest: name, Instance;
    v1::ListEnginesRequest: parent, Project;
    v1::GetDatabaseRequest: name, Database;
    v1::ListDatabasesRequest: parent, Instance;
    v1::GetConnectionRequest: name, Database;
    v1::GetChangeStreamRequest: name, ChangeStream;
    v1::ListChangeStreamsRequest: parent, Instance;
    v1::AcknowledgeRequest: change_stream, ChangeStream;
    v1::ListAuditRecordsRequest: parent, Project;
}

impl Asks for v1::SubscribeRequest {
    const KIND: Kind = Kind::Subscribed;

    /// The database of a temporary subscription is named as PostgreSQL names it, which says
    /// nothing of the resource.
    fn resource(&self) -> &str {
        match self.change_stream.as_str() {
            "" => &self.instance,
            stream => stream,
        }
    }

    fn check(&self) -> Result<(), Status> {
        validate::check(self)
    }
}

without_rules! {
    longrunning::ListOperationsRequest: name, Operations;
    longrunning::GetOperationRequest: name, Operation;
    longrunning::WaitOperationRequest: name, Operation;
    longrunning::CancelOperationRequest: name, Operation;
    longrunning::DeleteOperationRequest: name, Operation;
}

/// A request that has passed the permission check and the field rules.
#[derive(Debug)]
pub(super) struct Admitted<T> {
    /// The request.
    pub(super) message: T,
    /// What the layers have attached to the call.
    pub(super) extensions: Extensions,
}

/// Checks the permission on the request's resource, and then the field rules.
///
/// # Errors
/// PERMISSION_MISSING; INVALID_ARGUMENT with the reason of the first broken rule.
pub(super) fn admit<T: Asks>(request: Request<T>) -> Result<Admitted<T>, Status> {
    let (_, extensions, message) = request.into_parts();
    let right = Right::of(&extensions)?;
    audit::resource(&extensions, message.resource());
    if !right.holds(T::KIND, message.resource()) {
        return Err(right.refuse(&extensions, message.resource()).into());
    }
    message.check()?;
    Ok(Admitted {
        message,
        extensions,
    })
}

/// The same for an operation, on which permissions on its resource count too. That resource is
/// looked up only for callers with a role on a part of the project. A caller without one gets
/// the same response whether the operation exists or not.
///
/// # Errors
/// PERMISSION_MISSING; METADATA_UNAVAILABLE.
pub(super) async fn admit_operation<T: Asks>(
    operations: &Operations,
    request: Request<T>,
) -> Result<Admitted<T>, Status> {
    let (_, extensions, message) = request.into_parts();
    let right = Right::of(&extensions)?;
    audit::resource(&extensions, message.resource());
    if !right.holds(T::KIND, message.resource()) {
        let target = match message.resource().parse() {
            Ok(name) => operations.target(&name).await?,
            Err(_) => None,
        };
        if !target.is_some_and(|target| right.holds_on(&target)) {
            return Err(right.refuse(&extensions, message.resource()).into());
        }
    }
    message.check()?;
    Ok(Admitted {
        message,
        extensions,
    })
}

/// The permission that a call needs, with its caller.
struct Right<'a> {
    policy: &'a Policy,
    principal: &'a Principal,
    permission: &'a Permission,
}

impl<'a> Right<'a> {
    fn of(extensions: &'a Extensions) -> Result<Self> {
        let unlayered = || Error::internal("a call came past the layers");
        let call = extensions.get::<Call>().ok_or_else(unlayered)?;
        let Some(Access::Permission(permission)) = &call.method.access else {
            return Err(Error::internal(
                "a method without a permission was admitted",
            ));
        };
        Ok(Self {
            policy: call.policy.as_ref().ok_or_else(unlayered)?,
            principal: extensions.get::<Principal>().ok_or_else(unlayered)?,
            permission,
        })
    }

    /// Whether the caller has the permission on the resource of that name. Most callers have it
    /// everywhere, so the name is parsed only for the others.
    fn holds(&self, kind: Kind, resource: &str) -> bool {
        self.holds_on(&Scope::Everything) || self.holds_on(&kind.scope(resource))
    }

    fn holds_on(&self, scope: &Scope) -> bool {
        self.policy.allows(self.principal, self.permission, scope)
    }

    /// Writes the refusal to the audit log, and returns its error.
    fn refuse(&self, extensions: &Extensions, resource: &str) -> Error {
        let reason = Reason::PermissionMissing;
        audit::denied(extensions, self.principal, reason, Some(resource));
        missing(self.permission.as_str())
    }
}

/// The error for a missing permission.
pub(super) fn missing(permission: &str) -> Error {
    let message = format!("the permission {permission} is missing");
    Error::new(Reason::PermissionMissing, message).with_metadata("permission", permission)
}

impl<T: Asks> Admitted<T> {
    /// The origin of the request, for audit records.
    ///
    /// # Errors
    /// INTERNAL.
    pub(super) fn origin(&self) -> Result<Origin> {
        let unlayered = || Error::internal("a call came past the layers");
        let call = self.extensions.get::<Call>().ok_or_else(unlayered)?;
        let principal = self.extensions.get::<Principal>().ok_or_else(unlayered)?;
        let caller = self.extensions.get::<Arc<Caller>>();
        Ok(Origin {
            principal: principal.clone(),
            peer: caller.map_or_else(String::new, |caller| caller.peer.address.to_string()),
            method: Arc::clone(&call.method.name),
            trace: call.trace.to_string(),
            asked: asked(&self.message)?,
        })
    }
}

impl<T: AsksForChange> Admitted<T> {
    /// The mutation that is requested. The request's id is not part of its contents.
    ///
    /// # Errors
    /// REQUEST_ID_MALFORMED.
    pub(super) fn mutation(&mut self) -> Result<Mutation> {
        let request_id = std::mem::take(self.message.request_id());
        let request_id = match request_id.as_str() {
            "" => None,
            text => Some(Uuid::try_parse(text).map_err(|_| {
                Error::new(Reason::RequestIdMalformed, "`request_id` is no UUID")
                    .with_field("request_id")
            })?),
        };
        Ok(Mutation {
            origin: self.origin()?,
            request_id,
            fingerprint: fingerprint(&self.message),
            validate_only: self.message.validate_only(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_read_is_everything() {
        let id = Uuid::nil();
        for (kind, name, scope) in [
            (Kind::Project, "projects/a", "projects/a"),
            (Kind::Project, "projects/a/instances/b", "*"),
            (
                Kind::Instance,
                "projects/a/instances/b",
                "projects/a/instances/b",
            ),
            (Kind::Instance, "projects/a/instances/B", "*"),
            (Kind::Instance, "projects/a", "*"),
            (Kind::Database, "projects/a/instances/b", "*"),
            (Kind::Operations, "projects/a/operations", "projects/a"),
            (Kind::Operations, "projects/a", "projects/a"),
            (Kind::Operation, "projects/a/operations/x", "*"),
            (
                Kind::Operation,
                &format!("projects/a/operations/{id}"),
                "projects/a",
            ),
            (Kind::Project, "", "*"),
        ] {
            assert_eq!(kind.scope(name).to_string(), scope, "{kind:?} {name}");
        }
    }
}
