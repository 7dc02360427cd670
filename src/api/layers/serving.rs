//! Serves nothing before the start is complete. Until the migrations have run and the secret key
//! was checked, a call could find no tables, or seal with a wrong key.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Request;

use crate::{
    api::method::Method,
    domain::{Error, Reason, Result},
};

use super::{gate::Check, method_of};

/// Pause of the start between attempts to reach the metadata database.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Whether the start is complete and the metadata can be used. Otherwise only public methods are
/// served.
#[derive(Clone, Debug, Default)]
pub struct ServingState(Arc<AtomicBool>);

impl ServingState {
    /// Sets whether calls are served from now on.
    pub fn set(&self, serves: bool) {
        self.0.store(serves, Ordering::Release);
    }
}

impl Check for ServingState {
    fn check<B>(&self, request: &mut Request<B>) -> Result<()> {
        let public = method_of(request).is_some_and(|method| Method::is_public(method));
        if public || self.0.load(Ordering::Acquire) {
            return Ok(());
        }
        let message = "the server waits for its metadata database";
        Err(Error::new(Reason::MetadataUnavailable, message).with_retry_after(RETRY_DELAY))
    }
}
