//! `local.root` and the metadata that it belongs to.

use uuid::Uuid;

use super::{local_settings, trash};
use crate::{
    config::Config,
    domain::Result,
    providers::local::{Local, Owner},
    store::Store,
};

/// The root of this host, as a process that serves from it has it.
pub(super) struct Root {
    owner: Owner,
    host: Uuid,
}

/// What became of a root that was to belong to the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The metadata that it belongs to now.
    pub metadata: Uuid,
    /// The metadata that it belonged to before, if its file could be read.
    pub former: Option<Uuid>,
}

impl Root {
    pub(super) fn of(local: &Local) -> Self {
        Self {
            owner: local.owner(),
            host: local.host(),
        }
    }

    /// Refuses other metadata than that of the root. Nothing is written.
    pub(super) async fn verify(&self, store: &Store) -> Result<()> {
        self.owner.verify(store.metadata_id().await?)
    }

    /// Sees to it that the root belongs to this metadata, which may have been exchanged
    /// since the last call.
    pub(super) async fn claim(&self, store: &Store) -> Result<()> {
        let metadata = store.metadata_id().await?;
        let recorded = store.servers_on(self.host).await?;
        self.owner.claim(metadata, &recorded)
    }
}

/// Makes `local.root` that of the present metadata, after other metadata was lost. The
/// embedded metadata is started for this.
///
/// # Errors
/// DATA_DIR_IN_USE while a process serves from the root or from the data directory;
/// METADATA_NOT_FOUND, METADATA_UNAVAILABLE, CONFIG_INVALID, DATA_DIR_UNWRITABLE.
pub async fn adopt_root(config: Config) -> anyhow::Result<Adopted> {
    let root = Local::new(local_settings(&config))?;
    let records = trash::records(&config, root.host()).await?;
    let former = root.owner().adopt(records.metadata)?;
    Ok(Adopted {
        metadata: records.metadata,
        former,
    })
}
