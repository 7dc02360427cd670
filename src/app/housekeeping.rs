//! Periodic work: signs of life, deletion of old records, purges, and the search for PostgreSQL
//! installations.

use std::{sync::Arc, time::Duration};

use super::{
    Engines, Keys, Settings,
    conditions::Conditions,
    keys::KeyLife,
    mutation::{Mutations, ResourceRef, parameters},
    operations::{self, PurgeInstanceParameters},
    steady::MetadataClock,
    tasks::{Tasks, warn},
};
use crate::{
    domain::{
        Reason, Result,
        clock::Clock,
        engine::newest,
        instance::{Condition, Instance, Status},
        provider::Providers,
        version::{Version, Wanted},
    },
    store::{Store, processes::Process},
};

/// Pause between two rounds.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// Seconds for which records of silent processes and of ended leases are kept.
const SILENT: f64 = 86_400.0;

/// Type of the condition that reports a newer minor version.
const NEWER: &str = "NewerMinorInstalled";

/// Pause between two searches for installed versions.
const ENGINES: Duration = Duration::from_secs(60);

/// Does the periodic work. Cheap to clone.
#[derive(Clone)]
pub(super) struct Housekeeping {
    pub(super) store: Store,
    pub(super) providers: Providers,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metadata_clock: MetadataClock,
    pub(super) process: Arc<Process>,
    pub(super) engines: Engines,
    pub(super) keys: Keys,
    pub(super) conditions: Conditions,
    pub(super) mutations: Mutations,
    pub(super) tasks: Tasks,
    pub(super) settings: Arc<Settings>,
}

impl Housekeeping {
    /// Records until the process stops that it is alive and that its sealing key is in use. It
    /// has a task of its own, because a slow round of other work would make the process look
    /// dead.
    pub(super) async fn show_life(self) {
        let mut key = KeyLife::default();
        loop {
            warn("signs of life", self.store.see_process(&self.process).await);
            warn("sign of life of the key", key.show(&self.keys).await);
            if self.tasks.stops_within(INTERVAL).await {
                return;
            }
        }
    }

    /// Runs until the process stops.
    pub(super) async fn run(self) {
        loop {
            self.keep_house().await;
            if self.tasks.stops_within(INTERVAL).await {
                return;
            }
        }
    }

    /// Records which versions are installed, until the process stops.
    pub(super) async fn look_at_engines(self) {
        loop {
            warn("engines", self.tell_engines().await);
            if self.tasks.stops_within(ENGINES).await {
                return;
            }
        }
    }

    /// One round of work. A part that fails does not prevent the others.
    async fn keep_house(&self) {
        warn("times ahead", self.store.mend_times_ahead().await);
        match self.metadata_clock.is_steady().await {
            Ok(true) => {
                warn("requests and operations", self.forget().await);
                warn("purges", self.purge_all().await);
            }
            Ok(false) => {}
            Err(error) => warn::<()>("the clock", Err(error)),
        }
        warn("trash", self.empty_trash().await);
    }

    async fn empty_trash(&self) -> Result<()> {
        let now = self.store.now().await?;
        for provider in self.providers.all() {
            warn("trash", provider.empty_trash(now).await);
        }
        Ok(())
    }

    /// Starts the purges that are due.
    async fn purge_all(&self) -> Result<()> {
        let due = self.store.instances_to_purge().await?;
        // The clock may have stepped just before the query.
        if !self.metadata_clock.is_steady().await? {
            return Ok(());
        }
        for instance in due {
            warn("purge", self.purge(&instance).await);
        }
        Ok(())
    }

    /// Deletes old records, a bounded number of rows at a time.
    async fn forget(&self) -> Result<()> {
        let (store, settings) = (&self.store, &self.settings);
        let kept = settings.idempotency_retention.as_secs_f64();
        while store.forget_requests(kept).await? > 0 {}
        let kept = settings.retention.as_secs_f64();
        while store.forget_operations(kept).await? > 0 {}
        store.forget_processes(SILENT).await?;
        store.forget_leases(SILENT).await?;
        let kept = settings.audit_retention.as_secs_f64();
        while store.forget_audit_records(kept).await? > 0 {}
        Ok(())
    }

    /// Records for other hosts which versions this host has, and tells users of its servers
    /// about a newer minor version.
    async fn tell_engines(&self) -> Result<()> {
        let engines = self.engines.list().await?;
        let usable = engines.iter().filter(|engine| engine.usable());
        let versions: Vec<Version> = usable.map(|engine| engine.version).collect();
        let store = &self.store;
        store
            .set_host_versions(self.process.host.id, &versions)
            .await?;
        for instance in store.instances_to_watch(self.process.host.id).await? {
            let active = instance.active()?;
            // This host's installations do not matter to a server on another host.
            if active.host() != Some(self.process.host.id) {
                continue;
            }
            let running = active.version;
            let same_major = Wanted {
                major: Some(running.major),
                minor: None,
            };
            let newer = newest(&engines, same_major).filter(|engine| engine.version > running);
            let (status, message) = match newer {
                Some(engine) => (
                    Status::True,
                    format!("PostgreSQL {} is installed", engine.version),
                ),
                None => (Status::False, "no newer minor version is installed".into()),
            };
            let known = instance.conditions.iter().any(|known| known.kind == NEWER);
            if status == Status::True || known {
                let condition = Condition {
                    kind: NEWER.into(),
                    status,
                    reason: "ENGINES_COMPARED".into(),
                    message,
                    time: self.clock.now(),
                };
                self.conditions
                    .record_condition(instance.uid, &condition)
                    .await?;
            }
        }
        Ok(())
    }

    async fn purge(&self, instance: &Instance) -> Result<()> {
        let mut accepting = self.mutations.own("purge").await?;
        let Some(now) = accepting.tx.lock_instance_by_uid(instance.uid).await? else {
            return Ok(());
        };
        // The instance may have been undeleted since the query.
        if now.delete_time != instance.delete_time {
            return Ok(());
        }
        let target = ResourceRef::of(&now);
        let requested = accepting.tx.purge_requested(now.uid).await?;
        let parameters = parameters(PurgeInstanceParameters { requested })?;
        match accepting
            .enqueue(&operations::PURGE_INSTANCE, target, parameters)
            .await
        {
            Err(error) if error.reason() == Reason::ResourceBusy => Ok(()),
            purged => purged.map(|_| ()),
        }
    }
}
