//! Limits the memory of incomplete requests and of unread responses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    api::method::Method,
    domain::{Error, Reason, Result},
};

use super::{Budgets, Caller, Class, Permits, Scope, exhausted, take};

/// Least bytes that an incomplete request counts: its headers, its task, and the part of the
/// connection's read buffer that its first bytes occupy.
pub(in crate::api) const LEAST: usize = 16 * 1024;

/// Most bytes of incomplete probes, whose messages are small.
const PROBES: usize = 4 * 1024 * 1024;

/// When to retry. Incomplete requests arrive or time out within seconds.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Separate counters. Those of probes are separate so that other requests cannot block a probe;
/// those of streams, because streams last long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Purse {
    /// Requests of all other methods.
    Calls,
    /// Requests that are streams of messages.
    Streams,
    /// Requests of methods that everyone may call without a permit: `Check` of health.
    Probes,
    /// Responses that wait for their clients to read them.
    Answers,
}

/// Bytes of incomplete requests and unread responses, by counter.
pub(super) type UnfinishedBytes = [AtomicUsize; 4];

impl Purse {
    pub(in crate::api) fn of(method: Option<&Method>) -> Self {
        match method {
            Some(method) if method.client_streaming => Self::Streams,
            Some(method) if Class::of(method).is_none() => Self::Probes,
            _ => Self::Calls,
        }
    }

    pub(super) const fn count(self, bytes: &UnfinishedBytes) -> &AtomicUsize {
        let [calls, streams, probes, answers] = bytes;
        match self {
            Self::Calls => calls,
            Self::Streams => streams,
            Self::Probes => probes,
            Self::Answers => answers,
        }
    }

    /// Most bytes of all callers. One caller may have half of that, one connection a quarter.
    const fn most(self, limits: &Permits) -> usize {
        match self {
            Self::Calls | Self::Streams => limits.unfinished_bytes,
            Self::Probes => PROBES,
            Self::Answers => limits.unread_bytes,
        }
    }

    /// Name in metrics and errors.
    const fn name(self) -> &'static str {
        match self {
            Self::Calls | Self::Streams | Self::Probes => "unfinished_bytes",
            Self::Answers => "unread_bytes",
        }
    }
}

/// Bytes that are counted for one incomplete request or unread response. Dropping it gives them
/// back.
#[derive(Debug)]
pub(in crate::api) struct Unfinished {
    budgets: Arc<Budgets>,
    caller: Option<Arc<Caller>>,
    purse: Purse,
    bytes: usize,
}

impl Unfinished {
    /// Counts nothing yet.
    pub(in crate::api) fn new(
        budgets: &Arc<Budgets>,
        caller: Option<&Arc<Caller>>,
        purse: Purse,
    ) -> Self {
        Self {
            budgets: Arc::clone(budgets),
            caller: caller.cloned(),
            purse,
            bytes: 0,
        }
    }

    /// Moves the counted bytes to another value; this one then counts nothing.
    pub(in crate::api) fn take(&mut self) -> Self {
        Self {
            budgets: Arc::clone(&self.budgets),
            caller: self.caller.clone(),
            purse: self.purse,
            bytes: std::mem::take(&mut self.bytes),
        }
    }

    /// Raises the counted bytes to `bytes`, if they are fewer.
    ///
    /// # Errors
    /// BUDGET_EXHAUSTED when the connection or the caller has its share; OVERLOADED when the
    /// process has no room.
    pub(in crate::api) fn hold(&mut self, bytes: usize) -> Result<()> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        self.take_bytes(more).map_err(|scope| self.refusal(scope))?;
        self.bytes += more;
        Ok(())
    }

    /// Takes from all three limits or from none. The error is the limit that was reached.
    fn take_bytes(&self, bytes: usize) -> Result<(), Scope> {
        let (purse, most) = (self.purse, |scope| self.most(scope));
        if let Some(caller) = &self.caller {
            if !caller.take_unfinished(purse, bytes, most(Scope::Connection)) {
                return Err(Scope::Connection);
            }
            let account = caller.account();
            if !account.take_unfinished(purse, bytes, most(Scope::Caller)) {
                caller.give_back_unfinished(purse, bytes);
                return Err(Scope::Caller);
            }
        }
        let all = purse.count(&self.budgets.unfinished);
        if take(all, bytes, most(Scope::Process)) {
            return Ok(());
        }
        self.give_back_callers(bytes);
        Err(Scope::Process)
    }

    fn most(&self, scope: Scope) -> usize {
        let all = self.purse.most(&self.budgets.limits);
        match scope {
            Scope::Process => all,
            Scope::Caller | Scope::Address => all / 2,
            Scope::Connection => all / 4,
        }
    }

    fn refusal(&self, scope: Scope) -> Error {
        let name = self.purse.name();
        self.budgets.refusals.count(name, scope);
        match (scope, &self.caller) {
            (Scope::Process, _) | (_, None) => {
                let message = match self.purse {
                    Purse::Answers => "too many answers wait to be read",
                    _ => "too many requests are on their way",
                };
                Error::new(Reason::Overloaded, message)
            }
            (_, Some(caller)) => exhausted(caller, name, self.most(scope)),
        }
        .with_retry_after(RETRY_DELAY)
    }

    fn give_back_callers(&self, bytes: usize) {
        if let Some(caller) = &self.caller {
            caller.give_back_unfinished(self.purse, bytes);
            caller.account().give_back_unfinished(self.purse, bytes);
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.give_back_callers(self.bytes);
            let all = self.purse.count(&self.budgets.unfinished);
            all.fetch_sub(self.bytes, Relaxed);
        }
    }
}
