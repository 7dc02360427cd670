//! Who asks for a mutation, and how it is known again.

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;
use tonic::Request;
use uuid::Uuid;

use crate::{
    app::Mutation,
    domain::{Error, Reason, Result, principal::Principal},
};

/// The caller, as the authentication layer found it.
///
/// # Errors
/// CREDENTIALS_MISSING when no layer did.
pub(in crate::api) fn principal<T>(request: &Request<T>) -> Result<Principal> {
    let found = request.extensions().get::<Principal>().cloned();
    found.ok_or_else(|| Error::new(Reason::CredentialsMissing, "the caller is not known"))
}

/// The mutation that a request asks for; `anonymous` is the request without its id.
///
/// # Errors
/// REQUEST_ID_MALFORMED; CREDENTIALS_MISSING.
pub(in crate::api) fn mutation<T>(
    method: &'static str,
    request: &Request<T>,
    request_id: &str,
    validate_only: bool,
    anonymous: &impl Message,
) -> Result<Mutation> {
    let request_id = match request_id {
        "" => None,
        text => Some(Uuid::try_parse(text).map_err(|_| {
            Error::new(Reason::RequestIdMalformed, "`request_id` is no UUID")
                .with_field("request_id")
        })?),
    };
    Ok(Mutation {
        principal: principal(request)?,
        method,
        request_id,
        fingerprint: digest(&SHA256, &anonymous.encode_to_vec())
            .as_ref()
            .to_vec(),
        validate_only,
    })
}
