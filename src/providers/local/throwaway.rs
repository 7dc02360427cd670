//! Ends and deletes the servers of `howdah dev`, with all their data.

use std::{path::Path, time::Duration};

use super::{
    control::Cluster,
    directory::{Directory, blocking},
    embedded, failure,
    user::RunAs,
};
use crate::domain::Result;

/// How often a deletion is tried. Programs that are about to end may still create files.
const TRIES: u32 = 20;

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// Kills every server below `data_dir`, including the embedded metadata server. `local.root`
/// must have its default value. The data of the servers is lost.
///
/// # Errors
/// CONFIG_INVALID for a user that does not exist; SERVER_UNAVAILABLE for processes that cannot
/// be killed.
pub async fn end_servers(data_dir: &Path, run_as: Option<&str>) -> Result<()> {
    let run_as = RunAs::resolve(run_as)?;
    let servers = data_dir.join("local").join("servers");
    let listed = servers.clone();
    let names = blocking(move || match listed.is_dir() {
        true => Directory::open(&listed)?.names(),
        false => Ok(Vec::new()),
    });
    let homes = names.await?.into_iter().map(|name| servers.join(name));
    // The metadata server comes last, as in every shutdown.
    for home in homes.chain([data_dir.join(embedded::HOME)]) {
        if home.is_dir() {
            let cluster = Cluster::to_stop(home, data_dir.to_owned(), run_as);
            cluster.stop_at_any_cost(Duration::ZERO).await?;
        }
    }
    Ok(())
}

/// Deletes a directory that no process uses any more.
///
/// # Errors
/// DATA_DIR_UNWRITABLE.
pub async fn delete(path: &Path) -> Result<()> {
    let mut tries = 0;
    loop {
        let doomed = path.to_owned();
        let deleted = blocking(move || match std::fs::remove_dir_all(&doomed) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failure::file(error, &doomed))
            }
            _ => Ok(()),
        });
        match deleted.await {
            Err(_) if tries < TRIES => tries += 1,
            deleted => return deleted,
        }
        tokio::time::sleep(PAUSE).await;
    }
}
