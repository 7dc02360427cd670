//! Whether the caller may: the method's permission, and nothing without one.
//!
//! A method that the descriptors do not know is answered here and never reaches a
//! service, so that nothing is served by accident.

use http::Request;

use crate::{
    auth::{Policy, permission::Access},
    domain::{Error, Reason, Result, principal::Principal},
};

use super::{audit, gate::Check, method_of};

/// Checks the permission of each call.
#[derive(Clone, Copy, Debug)]
pub struct Authorise {
    /// Who may do what.
    pub policy: Policy,
}

impl Check for Authorise {
    fn check<B>(&self, request: &mut Request<B>) -> Result<()> {
        let access = method_of(request).and_then(|method| method.access.as_ref());
        let permission = match access {
            None => return Err(Error::new(Reason::Unimplemented, "there is no such method")),
            Some(Access::Public) => return Ok(()),
            Some(Access::Closed) => None,
            Some(Access::Permission(permission)) => Some(permission),
        };
        let principal = request.extensions().get::<Principal>();
        let Some(permission) = permission else {
            let principal = principal.unwrap_or(&Principal::Anonymous);
            audit::denied(request, principal, Reason::MethodClosed);
            return Err(Error::new(
                Reason::MethodClosed,
                "this method can be called by nobody",
            ));
        };
        let principal = principal.unwrap_or(&Principal::Anonymous);
        if self.policy.allows(principal, permission) {
            return Ok(());
        }
        audit::denied(request, principal, Reason::PermissionMissing);
        let message = format!("the permission {permission} is missing");
        Err(Error::new(Reason::PermissionMissing, message)
            .with_metadata("permission", permission.as_str()))
    }
}
