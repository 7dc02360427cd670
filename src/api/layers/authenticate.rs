//! Who calls: puts the [`Principal`] into the request's extensions.

use std::sync::Arc;

use http::Request;

use crate::{
    api::{budget::Caller, method::Method},
    auth::{Policy, principal},
    domain::{Error, Reason, Result, principal::Principal},
};

use super::{audit, gate::Check, method_of};

/// Finds the principal of each call and refuses unknown ones, except for public
/// methods.
#[derive(Clone, Copy, Debug)]
pub struct Authenticate {
    /// Who is let in.
    pub policy: Policy,
}

impl Check for Authenticate {
    fn check<B>(&self, request: &mut Request<B>) -> Result<()> {
        let principal = request
            .extensions()
            .get::<Arc<Caller>>()
            .map_or(Principal::Anonymous, |caller| {
                principal::identify(&caller.peer)
            });
        let public = method_of(request).is_some_and(|method| Method::is_public(method));
        if self.policy.role(&principal).is_none() && !public {
            audit::denied(request, &principal, Reason::CredentialsMissing);
            return Err(Error::new(
                Reason::CredentialsMissing,
                "this server wants a client certificate",
            ));
        }
        request.extensions_mut().insert(principal);
        Ok(())
    }
}
