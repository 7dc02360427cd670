//! Authentication: puts the [`Principal`] into the request's extensions.

use std::sync::Arc;

use http::Request;

use crate::{
    api::{budget::Caller, method::Method},
    auth::{Policy, principal},
    domain::{Error, Reason, Result, principal::Principal},
};

use super::{audit, gate::Check, method_of};

/// Finds the principal of each call. Refuses unknown ones, except for public methods.
#[derive(Clone, Debug)]
pub struct Authenticate {
    /// The policy, which knows the principals.
    pub policy: Policy,
}

impl Check for Authenticate {
    fn check<B>(&self, request: &mut Request<B>) -> Result<()> {
        let caller = request.extensions().get::<Arc<Caller>>();
        caller.map_or(Ok(()), |caller| caller.ending.check())?;
        let principal = caller.map_or(Principal::Anonymous, |caller| {
            principal::identify(&caller.peer)
        });
        let public = method_of(request).is_some_and(|method| Method::is_public(method));
        if principal == Principal::Unidentified || !(public || self.policy.admits(&principal)) {
            audit::denied(
                request.extensions(),
                &principal,
                Reason::CredentialsMissing,
                None,
            );
            let message = match principal {
                Principal::Unidentified => {
                    "the client certificate names nobody: it needs one SPIFFE URI or a subject"
                }
                _ => "this server wants a client certificate",
            };
            return Err(Error::new(Reason::CredentialsMissing, message));
        }
        request.extensions_mut().insert(principal);
        Ok(())
    }
}
