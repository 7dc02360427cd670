//! `howdah orphans`: what Howdah has made on the servers of this host and no record knows.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    backup::Source,
    keys, local_settings,
    metadata::{external, fixed, of_embedded, store},
    providers,
    root::Root,
    trash,
};
use crate::{
    api::operations,
    app::{App, Parts},
    config::Config,
    domain::{
        Result,
        clock::{Clock as _, SystemClock},
        host::Host,
        name::InstanceName,
        random::{Random as _, SystemSource},
    },
    providers::local::Local,
    store::{Source as Database, processes::Process},
};

/// What no record knows on the server of an instance, each as `kind/name`.
///
/// # Errors
/// INSTANCE_NOT_FOUND, HOST_ELSEWHERE, LOCAL_ROOT_MISMATCH, SERVER_UNAVAILABLE,
/// METADATA_UNAVAILABLE, METADATA_NOT_FOUND, SECRET_KEY_INVALID, CONFIG_INVALID.
pub async fn orphans_list(config: Config, instance: InstanceName) -> anyhow::Result<Vec<String>> {
    let listed = with_app(&config, async |app| {
        app.list_unknown_objects(&instance).await
    });
    Ok(Box::pin(listed).await?)
}

/// Drops these of them, or all, and answers what was dropped.
///
/// # Errors
/// As [`orphans_list`]; ORPHAN_NOT_FOUND, and why PostgreSQL refuses.
pub async fn orphans_drop(
    config: Config,
    instance: InstanceName,
    only: Option<BTreeSet<String>>,
) -> anyhow::Result<Vec<String>> {
    let dropped = with_app(&config, async |app| {
        app.drop_unknown_objects(&instance, only.as_ref()).await
    });
    Ok(Box::pin(dropped).await?)
}

/// Does something with the use cases of a process that serves nothing. The embedded metadata
/// is started for this if no process serves from it.
async fn with_app<T>(config: &Config, work: impl AsyncFnOnce(&App) -> Result<T>) -> Result<T> {
    // Refuses another user than the one that serves.
    trash::open(config)?;
    let (database, source): (Database, _) = match &config.database_url {
        Some(url) => (external(url.clone())?, None),
        None => {
            let source = Box::pin(Source::reach(config)).await?;
            let options = of_embedded(&source.embedded.access());
            (fixed(options), Some(source))
        }
    };
    let done = with_database(config, database, work).await;
    if let Some(source) = source {
        source.close().await?;
    }
    done
}

async fn with_database<T>(
    config: &Config,
    database: Database,
    work: impl AsyncFnOnce(&App) -> Result<T>,
) -> Result<T> {
    let keyring = keys::present(config)?;
    let local = Local::new(local_settings(config))?;
    let store = store(config, database);
    let random = Arc::new(SystemSource::default());
    let process = nobody(config, &local, random.uuid()?);
    let root = Root::of(&local);
    let app = App::new(Parts {
        store: store.clone(),
        providers: providers(local),
        keyring,
        process,
        random,
        clock: Arc::new(SystemClock),
        encode: operations::encode,
        settings: super::app_settings(config),
    });
    let work = async {
        root.verify(&store).await?;
        work(&app).await
    };
    let done = work.await;
    store.close().await;
    done
}

/// A process that is on no record, and claims nothing.
fn nobody(config: &Config, local: &Local, worker: uuid::Uuid) -> Process {
    Process {
        worker,
        host: Host {
            id: local.host(),
            name: String::new(),
            ports: config.local.ports.first()..=config.local.ports.last(),
        },
        endpoint: String::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        start_time: SystemClock.now(),
    }
}
