//! The memory of requests that have not arrived as a whole, and of answers that were not
//! read.

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

/// What a request counts at least while it is on its way: its headers, its task, and the
/// part of the connection's read buffer that its first bytes keep.
pub(in crate::api) const LEAST: usize = 16 * 1024;

/// Most bytes of unfinished probes, whose messages are small.
const PROBES: usize = 4 * 1024 * 1024;

/// Unfinished requests arrive or time out within seconds.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Which bytes a request counts. Those of probes are apart, so that a probe is answered
/// whatever other requests are on their way; and those of streams, which last for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Purse {
    /// Of all other methods.
    Calls,
    /// Of methods to which the caller sends a stream.
    Streams,
    /// Of methods that anybody may call, which take no permit: `Check` of health.
    Probes,
    /// Of answers that wait for their callers to read them.
    Answers,
}

/// Bytes of unfinished requests and answers, by purse.
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

    /// Most bytes of all callers; of one caller half of that, of a connection a quarter.
    const fn most(self, limits: &Permits) -> usize {
        match self {
            Self::Calls | Self::Streams => limits.unfinished_bytes,
            Self::Probes => PROBES,
            Self::Answers => limits.unread_bytes,
        }
    }

    /// As metrics and errors name it.
    const fn name(self) -> &'static str {
        match self {
            Self::Calls | Self::Streams | Self::Probes => "unfinished_bytes",
            Self::Answers => "unread_bytes",
        }
    }
}

/// Bytes that one unfinished request or one answer is counted with. Dropping it gives them back.
#[derive(Debug)]
pub(in crate::api) struct Unfinished {
    budgets: Arc<Budgets>,
    caller: Option<Arc<Caller>>,
    purse: Purse,
    bytes: usize,
}

impl Unfinished {
    /// A request or an answer that counts nothing yet.
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

    /// What is counted, for another holder; this one counts nothing then.
    pub(in crate::api) fn take(&mut self) -> Self {
        Self {
            budgets: Arc::clone(&self.budgets),
            caller: self.caller.clone(),
            purse: self.purse,
            bytes: std::mem::take(&mut self.bytes),
        }
    }

    /// Counts it with so many bytes, if it has not as many already.
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
