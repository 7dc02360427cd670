//! What has to be done from time to time: signs of life, retention, purges, and looks
//! at the installations.

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

/// How often.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// Seconds for which processes that are silent, and leases that have ended, stay on record.
const SILENT: f64 = 86_400.0;

/// Type of the condition that reports a newer minor version.
const NEWER: &str = "NewerMinorInstalled";

/// How often it is looked which versions are installed.
const ENGINES: Duration = Duration::from_secs(60);

/// What has to be done from time to time. Cheap to clone.
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
    /// Shows that this process is there and that its sealing key is in use, as long as it
    /// serves. Nothing else is done in between: others would take a process for gone that is
    /// only slow.
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

    /// Runs as long as the process serves.
    pub(super) async fn run(self) {
        loop {
            self.keep_house().await;
            if self.tasks.stops_within(INTERVAL).await {
                return;
            }
        }
    }

    /// Tells which versions are installed as long as the process serves.
    pub(super) async fn look_at_engines(self) {
        loop {
            warn("engines", self.tell_engines().await);
            if self.tasks.stops_within(ENGINES).await {
                return;
            }
        }
    }

    /// What fails does not keep the rest from being done.
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

    /// Begins the purge of instances whose time has come.
    async fn purge_all(&self) -> Result<()> {
        let due = self.store.instances_to_purge().await?;
        // It may have stepped just before they were found.
        if !self.metadata_clock.is_steady().await? {
            return Ok(());
        }
        for instance in due {
            warn("purge", self.purge(&instance).await);
        }
        Ok(())
    }

    /// Forgets what is kept for long enough, a bounded number of rows at a time.
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

    /// Tells other hosts which versions this one has, and users of its servers whether
    /// there is a newer minor.
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
            // The installations of this host are nothing to a server that is not on it.
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
        // It may have been undeleted since it was read.
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
