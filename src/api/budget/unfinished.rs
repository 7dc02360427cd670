//! The memory of requests that have not arrived as a whole.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use crate::domain::{Error, Reason, Result};

use super::{Budgets, Caller, Scope, exhausted, take};

/// What a request counts at least while it is on its way: its headers, its task, and the
/// part of the connection's read buffer that its first bytes keep.
pub(in crate::api) const LEAST: usize = 16 * 1024;

/// As metrics and errors name it.
const NAME: &str = "unfinished_bytes";

/// A request that is on its way has arrived soon, or is ended.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Bytes that one unfinished request is counted with. Dropping it gives them back.
#[derive(Debug)]
pub(in crate::api) struct Unfinished {
    budgets: Arc<Budgets>,
    caller: Option<Arc<Caller>>,
    bytes: usize,
}

impl Unfinished {
    /// A request that counts nothing yet.
    pub(in crate::api) fn new(budgets: &Arc<Budgets>, caller: Option<&Arc<Caller>>) -> Self {
        Self {
            budgets: Arc::clone(budgets),
            caller: caller.cloned(),
            bytes: 0,
        }
    }

    /// What is counted, for another holder; this one counts nothing then.
    pub(in crate::api) fn take(&mut self) -> Self {
        Self {
            budgets: Arc::clone(&self.budgets),
            caller: self.caller.clone(),
            bytes: std::mem::take(&mut self.bytes),
        }
    }

    /// Counts the request with so many bytes, if it has not as many already.
    ///
    /// # Errors
    /// BUDGET_EXHAUSTED when its connection or its caller has its share; OVERLOADED when
    /// the process has no room.
    pub(in crate::api) fn hold(&mut self, bytes: usize) -> Result<()> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        self.take_bytes(more).map_err(|scope| self.refusal(scope))?;
        self.bytes += more;
        Ok(())
    }

    /// Takes from all three, or from none and answers whose bound it is.
    fn take_bytes(&self, bytes: usize) -> Result<(), Scope> {
        let all = self.budgets.limits.unfinished_bytes;
        if let Some(caller) = &self.caller {
            if !caller.take_unfinished(bytes, all / 4) {
                return Err(Scope::Connection);
            }
            if !caller.account().take_unfinished(bytes, all / 2) {
                caller.give_back_unfinished(bytes);
                return Err(Scope::Caller);
            }
        }
        if take(&self.budgets.unfinished, bytes, all) {
            return Ok(());
        }
        self.give_back_callers(bytes);
        Err(Scope::Process)
    }

    fn refusal(&self, scope: Scope) -> Error {
        self.budgets.refusals.count(NAME, scope);
        let all = self.budgets.limits.unfinished_bytes;
        let most = match scope {
            Scope::Caller => all / 2,
            _ => all / 4,
        };
        match (scope, &self.caller) {
            (Scope::Process, _) | (_, None) => {
                let message = "too many requests are on their way";
                Error::new(Reason::Overloaded, message)
            }
            (_, Some(caller)) => exhausted(caller, NAME, most),
        }
        .with_retry_after(RETRY_DELAY)
    }

    fn give_back_callers(&self, bytes: usize) {
        if let Some(caller) = &self.caller {
            caller.give_back_unfinished(bytes);
            caller.account().give_back_unfinished(bytes);
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.give_back_callers(self.bytes);
            self.budgets.unfinished.fetch_sub(self.bytes, Relaxed);
        }
    }
}
