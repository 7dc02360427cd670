//! Limits the rate of calls per caller.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    state::keyed::DefaultKeyedStateStore,
};
use http::Request;

use crate::{
    api::{
        budget::{Caller, Key},
        method::Method,
    },
    domain::{Error, Reason, Result},
};

use super::{gate::Check, method_of};

type Limiter = RateLimiter<Key, DefaultKeyedStateStore<Key>, DefaultClock>;

/// Number of calls after which idle callers are forgotten.
const SWEEP: u64 = 65_536;

/// A limit on the calls per second of each caller: a principal, or an address for anonymous
/// callers. Public methods and the addresses of proxies are not counted.
#[derive(Clone, Debug)]
pub struct Rate {
    limiter: Option<Arc<Limiter>>,
    calls: Arc<AtomicU64>,
}

impl Rate {
    /// Admits `per_second` calls per second, and `burst` at once after a pause. 0 means no
    /// limit. `burst` is at least `per_second`.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let limiter = NonZeroU32::new(per_second).map(|rate| {
            let burst = NonZeroU32::new(burst).map_or(rate, |burst| burst.max(rate));
            Arc::new(RateLimiter::keyed(
                Quota::per_second(rate).allow_burst(burst),
            ))
        });
        Self {
            limiter,
            calls: Arc::default(),
        }
    }

    fn sweep(&self, limiter: &Limiter) {
        if self.calls.fetch_add(1, Ordering::Relaxed) % SWEEP == SWEEP - 1 {
            limiter.retain_recent();
        }
    }
}

impl Check for Rate {
    fn check<B>(&self, request: &mut Request<B>) -> Result<()> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        let caller = request.extensions().get::<Arc<Caller>>();
        let Some(key) = caller.and_then(|caller| caller.account().bounded()) else {
            return Ok(());
        };
        if method_of(request).is_some_and(|method| Method::is_public(method)) {
            return Ok(());
        }
        self.sweep(limiter);
        limiter.check_key(key).map_err(|early| {
            let wait = early.wait_time_from(DefaultClock::default().now());
            Error::new(Reason::RateLimited, "too many calls in a short time")
                .with_resource(key.to_string())
                .with_retry_after(wait)
        })
    }
}
