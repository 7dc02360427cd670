//! The secret keys of this process: records that its sealing key is in use, seals old values
//! again with the newest key, and deletes the records of keys that are not needed.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    admin::{password_label, role_password_label},
    housekeeping::INTERVAL,
    steady::MetadataClock,
    tasks::{Tasks, warn},
};
use crate::{
    domain::{Error, Reason, Result},
    failpoint,
    store::{
        Store,
        sealing::{Keyring, Label, RegisteredKey, Sealed},
    },
};

/// All kinds of sealed values, with the label that a row's value is bound to.
const SEALED: [(Sealed, Label); 2] = [
    (Sealed::AdminPasswords, password_label),
    (Sealed::RolePasswords, role_password_label),
];

/// Remembers whether the sealing key of this process was on record.
#[derive(Debug, Default)]
pub(super) struct KeyLife {
    gone: bool,
}

/// Whether this process can seal and open values. Health reports it.
#[derive(Debug, Default)]
pub(super) struct KeysHealth {
    /// The sealing key of this process was rotated out.
    gone: AtomicBool,
    /// Values are sealed with a newer key that this process does not have.
    lacking: AtomicBool,
}

/// The secret keys of this process. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    pub(super) store: Store,
    pub(super) keyring: Keyring,
    pub(super) metadata_clock: MetadataClock,
    pub(super) tasks: Tasks,
    pub(super) health: Arc<KeysHealth>,
}

impl Keys {
    /// Checks that this process has the keys that are in use.
    ///
    /// # Errors
    /// SECRET_KEY_INVALID when its sealing key was rotated out, or when it lacks the newest key.
    pub fn fit(&self) -> Result<()> {
        let health = &self.health;
        if health.gone.load(Ordering::Acquire) || health.lacking.load(Ordering::Acquire) {
            let message = "the secret keys were rotated and this process was not given the \
                present ones: restart it with them";
            return Err(Error::new(Reason::SecretKeyInvalid, message));
        }
        Ok(())
    }
}

impl KeyLife {
    /// Records that the sealing key is in use. If its record was deleted it is not added again:
    /// the process was silent for so long that others have given the key up. The metadata
    /// refuses what it would seal; the process can still open values until it is restarted.
    pub(super) async fn show(&mut self, keys: &Keys) -> Result<()> {
        let key = keys.keyring.id();
        let gone = !keys.store.see_key(key).await?;
        if gone && !self.gone {
            tracing::error!(
                key,
                "the secret key of this process is not in use any more: nothing new is sealed \
                 until it is restarted with the present key"
            );
        }
        self.gone = gone;
        keys.health.gone.store(gone, Ordering::Release);
        Ok(())
    }
}

/// What was logged or seen in earlier rounds.
#[derive(Default)]
struct Known {
    /// Rows whose values do not open.
    unopened: BTreeSet<(Sealed, Uuid)>,
    /// A newer key that this process does not have.
    lacking: Option<String>,
    /// Until this time no key counts as unused. After an outage of the metadata, the signs of
    /// life of living processes are as old as those of dead ones.
    hold: Option<Instant>,
}

impl Known {
    fn holds(&self) -> bool {
        self.hold.is_some_and(|until| Instant::now() < until)
    }
}

/// How long other processes have time to show life after an outage.
const HOLD: Duration = Duration::from_secs(60);

impl Keys {
    /// Runs until the process stops. The first round is at once, because a rotation begins with
    /// a restart.
    pub(super) async fn run(self) {
        let mut known = Known::default();
        loop {
            let tended = self.tend(&mut known).await;
            let away = |error: &Error| error.reason() == Reason::MetadataUnavailable;
            if tended.as_ref().is_err_and(away) {
                known.hold = Some(Instant::now() + HOLD);
            }
            warn("keys", tended);
            let pause = failpoint::pause("keys.pause", INTERVAL);
            if self.tasks.stops_within(pause).await {
                return;
            }
        }
    }

    /// Seals values again and deletes old keys, if this process seals with the newest key.
    /// Otherwise it leaves that to processes with the newest key, so that no two undo each
    /// other's work.
    async fn tend(&self, known: &mut Known) -> Result<()> {
        let keyring = &self.keyring;
        let registered = self.store.registered_keys().await?;
        let Some((newest, former)) = registered.split_first() else {
            return Ok(());
        };
        if newest.id != keyring.id() {
            return self.follow(newest, known).await;
        }
        self.health.lacking.store(false, Ordering::Release);
        if former.is_empty() {
            return Ok(());
        }
        self.reseal(known).await?;
        if known.holds() || !self.metadata_clock.is_steady().await? {
            return Ok(());
        }
        for key in self.store.forget_keys().await? {
            tracing::info!(key, "the former key is not needed any more");
        }
        Ok(())
    }

    /// Handles a newer key on record. If no process seals with it any more the rotation was
    /// reverted, and the key of this process becomes the newest again.
    async fn follow(&self, newest: &RegisteredKey, known: &mut Known) -> Result<()> {
        let keyring = &self.keyring;
        let lacking = !keyring.holds(&newest.id);
        self.health.lacking.store(lacking, Ordering::Release);
        if lacking {
            if known.lacking.as_ref() != Some(&newest.id) {
                tracing::error!(
                    key = newest.id,
                    "secrets are sealed with a newer key that this process does not have: give it"
                );
                known.lacking = Some(newest.id.clone());
            }
            return Ok(());
        }
        let store = &self.store;
        // After a step of the clock every key looks unused.
        let is_idle = newest.idle && !known.holds() && self.metadata_clock.is_steady().await?;
        if is_idle && store.promote_key(keyring.id(), &newest.id).await? {
            tracing::info!(
                key = keyring.id(),
                former = newest.id,
                "secrets will be sealed with this key again: the newer one is not in use"
            );
        }
        Ok(())
    }

    async fn reseal(&self, known: &mut Known) -> Result<()> {
        let (mut resealed, mut unopened) = (0, BTreeSet::new());
        for (what, label) in SEALED {
            let mut next = Some(Uuid::nil());
            while let Some(after) = next
                && !self.tasks.is_stopping()
            {
                let (store, keyring) = (&self.store, &self.keyring);
                let batch = store.reseal(what, keyring, label, after).await?;
                resealed += batch.resealed;
                for (uid, error) in batch.unopened {
                    if !known.unopened.contains(&(what, uid)) {
                        log_unopened(what, uid, &error);
                    }
                    unopened.insert((what, uid));
                }
                next = batch.next;
            }
        }
        if resealed > 0 || known.unopened != unopened {
            let key = self.keyring.id();
            tracing::info!(
                key,
                resealed,
                unopened = unopened.len(),
                "re-sealed secrets"
            );
        }
        known.unopened = unopened;
        Ok(())
    }
}

fn log_unopened(what: Sealed, uid: Uuid, error: &Error) {
    tracing::error!(
        ?what, %uid, %error,
        detail = error.internal_detail(),
        "a stored secret does not open and stays sealed as it is"
    );
}
