//! Authorisation: refuses callers that have the method's permission nowhere. A method without a
//! permission is refused for everybody. The handler then checks the permission on the request's
//! resource ([`admit`](crate::api::admit)).
//!
//! Methods that the descriptors do not contain are refused here. So no service can be reached by
//! accident.

use http::Request;

use crate::{
    api::admit::missing,
    auth::{Policy, permission::Access},
    domain::{Error, Reason, Result, principal::Principal},
};

use super::{Call, audit, gate::Check, method_of};

/// Checks the permission of each call.
#[derive(Clone, Debug)]
pub struct Authorise {
    /// The policy, which knows the bindings.
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
            audit::denied(request.extensions(), principal, Reason::MethodClosed, None);
            return Err(Error::new(
                Reason::MethodClosed,
                "this method can be called by nobody",
            ));
        };
        let principal = principal.unwrap_or(&Principal::Anonymous);
        if self.policy.allows_anywhere(principal, permission) {
            if let Some(call) = request.extensions_mut().get_mut::<Call>() {
                call.policy = Some(self.policy.clone());
            }
            return Ok(());
        }
        let reason = Reason::PermissionMissing;
        audit::denied(request.extensions(), principal, reason, None);
        Err(missing(permission.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry::trace::TraceId;

    use super::*;
    use crate::{
        api::method::{Effect, Method},
        auth::Permission,
        domain::access::Role,
    };

    fn ask(access: Option<Access>, principal: Principal) -> Result<()> {
        let method = Method {
            name: "howdah.v1.Service/Method".into(),
            access,
            effect: Effect::Read,
            streaming: false,
            client_streaming: false,
            waits: false,
        };
        let mut request = Request::new(());
        request.extensions_mut().insert(Call {
            method: Arc::new(method),
            trace: TraceId::INVALID,
            policy: None,
        });
        request.extensions_mut().insert(principal);
        let policy = Policy::built_in(Some(Role::Operator));
        Authorise { policy }.check(&mut request)
    }

    #[test]
    fn only_who_holds_the_permission_is_let_in() {
        let permission = Permission::parse("instances.create").unwrap();
        let held = || Some(Access::Permission(permission.clone()));
        ask(held(), Principal::Anonymous).unwrap();
        let delete = Permission::parse("instances.delete").unwrap();
        let error = ask(Some(Access::Permission(delete)), Principal::Anonymous).unwrap_err();
        assert_eq!(error.metadata()["permission"], "instances.delete");
        ask(Some(Access::Public), Principal::Howdah).unwrap();
        let refusals = [
            (held(), Reason::PermissionMissing),
            (Some(Access::Closed), Reason::MethodClosed),
            (None, Reason::Unimplemented),
        ];
        for (access, reason) in refusals {
            let error = ask(access, Principal::Howdah).unwrap_err();
            assert_eq!(error.reason(), reason);
        }
        // Nobody may call a method without a permission.
        let error = ask(Some(Access::Closed), Principal::Anonymous).unwrap_err();
        assert_eq!(error.reason(), Reason::MethodClosed);
    }
}
