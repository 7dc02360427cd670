//! Finds servers on this host that no record knows, for example after a host was given up or old
//! metadata was restored. They are reported and not touched. The same holds for objects on the
//! servers of instances that no record knows.

pub(super) mod objects;

use std::{collections::BTreeSet, time::Duration};

use uuid::Uuid;

use super::tasks::{Tasks, warn};
use crate::{
    domain::{
        Result,
        provider::{Present, Providers},
    },
    store::Store,
    telemetry::orphans::record,
};

/// Pause between two searches.
const INTERVAL: Duration = Duration::from_secs(30);

fn report(known: &mut BTreeSet<Present>, found: BTreeSet<Present>) {
    for Present { uid, running } in found.difference(known) {
        tracing::warn!(
            server = %uid,
            running,
            "no record knows a server on this host; `howdah trash throw` removes it"
        );
    }
    let running = found.iter().filter(|server| server.running).count();
    record("server", running);
    record("directory", found.len() - running);
    let there: BTreeSet<Uuid> = found.iter().map(|server| server.uid).collect();
    for server in known.iter().filter(|server| !there.contains(&server.uid)) {
        tracing::info!(server = %server.uid, "a server without a record is gone");
    }
    *known = found;
}

/// Searches for servers without a record. Cheap to clone.
#[derive(Clone)]
pub(super) struct Orphans {
    pub(super) store: Store,
    pub(super) providers: Providers,
    pub(super) host: Uuid,
    pub(super) tasks: Tasks,
}

impl Orphans {
    /// Counts them, and logs each change, until the process stops.
    pub(super) async fn run(self) {
        let mut known = BTreeSet::new();
        loop {
            match self.find().await {
                Ok(found) => report(&mut known, found),
                failed => warn("servers without a record", failed),
            }
            if self.tasks.stops_within(INTERVAL).await {
                return;
            }
        }
    }

    async fn find(&self) -> Result<BTreeSet<Present>> {
        let before = self.present().await?;
        let recorded = self.store.servers_on(self.host).await?;
        // A server that is removed between the two listings loses its record and its data. It is
        // in the first listing only, so it is not reported.
        let after = self.present().await?;
        let before: BTreeSet<Uuid> = before.iter().map(|server| server.uid).collect();
        let recorded: BTreeSet<Uuid> = recorded.into_iter().collect();
        let orphan = |uid: &Uuid| before.contains(uid) && !recorded.contains(uid);
        Ok(after
            .into_iter()
            .filter(|server| orphan(&server.uid))
            .collect())
    }

    async fn present(&self) -> Result<BTreeSet<Present>> {
        let mut all = BTreeSet::new();
        for provider in self.providers.all() {
            all.extend(provider.present().await?);
        }
        Ok(all)
    }
}
