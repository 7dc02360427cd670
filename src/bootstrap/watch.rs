//! Watches the metadata database while the process serves, and reports its state as health. A
//! database that was unavailable is checked before calls are served from it again.

use std::time::Duration;

use super::root::Root;
use crate::{
    admin::Readiness,
    api::{health::Reporter, server::ServingState},
    app::App,
    domain::{Error, Reason, Result},
    store::{Store, sealing::Keyring},
};

/// Pause between two probes while the database is available.
const INTERVAL: Duration = Duration::from_secs(2);

/// Pause between two probes while the database is unavailable.
const AWAY_INTERVAL: Duration = Duration::from_millis(500);

/// Where the state is reported.
pub(super) struct Signals {
    pub(super) health: Reporter,
    pub(super) readiness: Readiness,
    /// Admits calls. It is reset only for a database that must not be used. While the database
    /// is unavailable calls are tried and get its errors, and a database with a full disk can be
    /// read.
    pub(super) started: ServingState,
}

/// What the watch needs.
pub(super) struct Watch<'a> {
    pub(super) app: &'a App,
    pub(super) store: &'a Store,
    pub(super) root: &'a Root,
    pub(super) keyring: &'a Keyring,
    pub(super) signals: Signals,
}

impl Signals {
    /// Reports that calls are served from now on.
    pub(super) fn serving(&self) {
        self.started.set(true);
        self.health.serving();
        self.readiness.set(true);
    }

    /// Reports that no calls should be sent from now on.
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
        // Also the first connection: the database may have been exchanged since the start.
        let mut verified = 0;
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

    /// Checks that this is still the database that was found at the start. It may have been
    /// restored from a backup, or may be another one.
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
        // The tables are not created here: an administrator may be restoring the database, and the
        // restore would fail on existing tables.
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

/// Whether a probe has found that its table is missing.
fn is_without_tables(error: &Error) -> bool {
    error.reason() == Reason::MetadataSchemaMismatch
}
