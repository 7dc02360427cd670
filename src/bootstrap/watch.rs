//! Watches the metadata database while serving: health follows it, and what a database
//! that comes back must have is checked before calls are served from it again.

use std::time::Duration;

use super::root::Root;
use crate::{
    admin::Readiness,
    api::{health::Reporter, server::Started},
    app::App,
    domain::{Error, Reason, Result},
    store::{Store, sealing::Keyring},
};

/// Pause between two looks while all is well.
const INTERVAL: Duration = Duration::from_secs(2);

/// Pause between two looks while the database is away.
const AWAY_INTERVAL: Duration = Duration::from_millis(500);

/// Where it is reported whether calls are served.
pub(super) struct Signals {
    pub(super) health: Reporter,
    pub(super) readiness: Readiness,
    /// Lets calls in. Only a database that must not be used closes it again: one that is
    /// away answers by itself, and one whose disk is full can still be read.
    pub(super) started: Started,
}

/// What is watched.
pub(super) struct Watch<'a> {
    pub(super) app: &'a App,
    pub(super) store: &'a Store,
    pub(super) root: &'a Root,
    pub(super) keyring: &'a Keyring,
    pub(super) signals: Signals,
}

impl Signals {
    /// From now on calls are served.
    pub(super) fn serving(&self) {
        self.started.set(true);
        self.health.serving();
        self.readiness.set(true);
    }

    /// From now on no calls should come.
    pub(super) fn not_serving(&self) {
        self.readiness.set(false);
        self.health.not_serving();
    }
}

impl Watch<'_> {
    /// Watches until it is dropped.
    pub(super) async fn run(self) -> ! {
        let mut probe = self.store.probe(self.app.worker());
        let mut trouble: Option<Error> = None;
        // The start has verified what its first connection leads to.
        let mut verified = 1;
        loop {
            let interval = trouble.as_ref().map_or(INTERVAL, |_| AWAY_INTERVAL);
            tokio::time::sleep(interval).await;
            self.store.reap();
            let looked = probe.look().await;
            let lost_tables = looked.as_ref().is_err_and(is_without_tables);
            let connections = probe.connections();
            let looked = match looked {
                Ok(()) if trouble.is_some() || connections > verified => {
                    let found = self.verify().await;
                    if found.is_ok() {
                        verified = connections;
                    }
                    match found {
                        // The probe has just found the database there: the next look tries
                        // again.
                        Err(error) if trouble.is_none() && error.retryable() => Ok(()),
                        found => found,
                    }
                }
                looked => looked,
            };
            let looked = looked.and_then(|()| self.app.keys.fit());
            match looked {
                Ok(()) if trouble.take().is_some() => {
                    tracing::info!("the metadata database is back");
                    self.signals.serving();
                }
                Ok(()) => {}
                Err(error) => {
                    if trouble.as_ref().map(Error::reason) != Some(error.reason()) {
                        self.report(&error, lost_tables);
                    }
                    trouble = Some(error);
                }
            }
        }
    }

    /// Whether this is still the database that the start found: it may have been restored
    /// from a backup, or be another one.
    async fn verify(&self) -> Result<()> {
        let verified = async {
            self.store.migrate().await?;
            self.store.check_keys_again(self.keyring).await?;
            self.root.claim(self.store).await
        };
        let verified = verified.await;
        if verified.as_ref().is_err_and(|error| !error.retryable()) {
            self.signals.started.set(false);
        }
        verified
    }

    fn report(&self, error: &Error, lost_tables: bool) {
        tracing::error!(
            %error,
            detail = error.internal_detail(),
            "not serving: the metadata cannot be used"
        );
        // No migration here: an administrator may be restoring the database, and the
        // restore would fail on tables that already exist.
        if lost_tables {
            tracing::error!(
                "the metadata database has lost its tables: it is used again when they are \
                 restored; one that is to begin anew, empty, is filled at the next start, and \
                 `howdah metadata adopt-root` gives it this local.root"
            );
        }
        self.signals.not_serving();
    }
}

/// Whether a probe has found no table to write to.
fn is_without_tables(error: &Error) -> bool {
    error.reason() == Reason::MetadataSchemaMismatch
}
