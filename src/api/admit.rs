//! How every handler begins: may this caller do that to this resource, and is the request
//! right. Nothing is looked up before, so that a refusal says nothing of what exists.

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
    app::{Mutation, Origin},
    auth::permission::Access,
    domain::{
        Error, Reason, Result,
        access::Scope,
        name::{OperationName, ProjectName},
        principal::Principal,
    },
    pb::{google::longrunning, v1},
};

/// A kind of resource that a request can name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Project,
    Instance,
    Database,
    /// Its project is what counts.
    Operation,
    /// A project, or the collection of its operations.
    Operations,
}

impl Kind {
    /// The scope of a resource of this kind. For a malformed name it is everything: only a
    /// principal with the permission everywhere learns what is wrong with the name.
    fn scope(self, name: &str) -> Scope {
        let scope = match self {
            Self::Project => name.parse().map(Scope::Project),
            Self::Instance => name.parse().map(Scope::Instance),
            Self::Database => name.parse().map(Scope::Database),
            Self::Operation => name.parse().map(|name: OperationName| {
                let project = name.project;
                Scope::Project(ProjectName { project })
            }),
            Self::Operations => collection_parent(name).parse().map(Scope::Project),
        };
        scope.unwrap_or(Scope::Everything)
    }
}

/// The project of a collection of operations, which may be named as itself or as its parent.
pub(super) fn collection_parent(name: &str) -> &str {
    name.strip_suffix("/operations").unwrap_or(name)
}

/// A request of a method.
pub(super) trait Asks: Name {
    /// Kind of the resource that the permission is checked on.
    const KIND: Kind;

    /// Its name.
    fn resource(&self) -> &str;

    /// Checks the rules of the fields.
    ///
    /// # Errors
    /// INVALID_ARGUMENT.
    fn check(&self) -> Result<(), Status>;
}

/// A request to change something that can be sent again under the same id.
pub(super) trait AsksForChange: Asks + Clone {
    /// The id; empty without one.
    fn request_id(&mut self) -> &mut String;

    /// Whether nothing is to be changed.
    fn validate_only(&self) -> bool;
}

/// Google's requests carry no rules: the handlers are the gate.
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
}

with_rules! {
    v1::GetInstanceRequest: name, Instance;
    v1::ListInstancesRequest: parent, Project;
    v1::ReadInstanceLogRequest: name, Instance;
    v1::ListEnginesRequest: parent, Project;
    v1::GetDatabaseRequest: name, Database;
    v1::ListDatabasesRequest: parent, Instance;
    v1::GetConnectionRequest: name, Database;
    // Its database is named as PostgreSQL names it, which says nothing of the resource.
    v1::SubscribeRequest: instance, Instance;
    v1::ListAuditRecordsRequest: parent, Project;
}

without_rules! {
    longrunning::ListOperationsRequest: name, Operations;
    longrunning::GetOperationRequest: name, Operation;
    longrunning::WaitOperationRequest: name, Operation;
    longrunning::CancelOperationRequest: name, Operation;
    longrunning::DeleteOperationRequest: name, Operation;
}

/// A request whose caller may ask for that, and whose fields keep their rules.
#[derive(Debug)]
pub(super) struct Admitted<T> {
    /// What is asked for.
    pub(super) message: T,
    /// What the layers know of the call.
    pub(super) extensions: Extensions,
}

/// Checks the permission on the request's resource, then the rules of its fields.
///
/// # Errors
/// PERMISSION_MISSING; INVALID_ARGUMENT with the reason of the first rule that is broken.
pub(super) fn admit<T: Asks>(request: Request<T>) -> Result<Admitted<T>, Status> {
    let (_, extensions, message) = request.into_parts();
    permit(&extensions, T::KIND, message.resource())?;
    message.check()?;
    Ok(Admitted {
        message,
        extensions,
    })
}

fn permit(extensions: &Extensions, kind: Kind, resource: &str) -> Result<()> {
    let unlayered = || Error::internal("a call came past the layers");
    let call = extensions.get::<Call>().ok_or_else(unlayered)?;
    let principal = extensions.get::<Principal>().ok_or_else(unlayered)?;
    let policy = call.policy.as_ref().ok_or_else(unlayered)?;
    let Some(Access::Permission(permission)) = &call.method.access else {
        return Err(Error::internal(
            "a method without a permission was admitted",
        ));
    };
    audit::resource(extensions, resource);
    let allows = |scope: &Scope| policy.allows(principal, permission, scope);
    // Most callers may everywhere: the name needs no look then.
    if allows(&Scope::Everything) || allows(&kind.scope(resource)) {
        return Ok(());
    }
    audit::denied(
        extensions,
        principal,
        Reason::PermissionMissing,
        Some(resource),
    );
    Err(missing(permission.as_str()))
}

/// That a permission is missing.
pub(super) fn missing(permission: &str) -> Error {
    let message = format!("the permission {permission} is missing");
    Error::new(Reason::PermissionMissing, message).with_metadata("permission", permission)
}

impl<T: Asks> Admitted<T> {
    /// Where the request comes from, for the records.
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
    /// The mutation that is asked for. The request's id is no part of its content.
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
