//! Chooses the PostgreSQL programs that the metadata server runs with.

use std::{
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use super::HOME;
use crate::{
    domain::{Error, Reason, Result, engine::Engine, version::Version},
    providers::local::{
        control::DATA,
        directory::Directory,
        discover::{self, Discovery},
        initialize,
        user::RunAs,
    },
};

/// File that records the programs of the last start.
pub(super) const MARKER: &str = "metadata.engine";

/// The programs of the last start.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    directory: PathBuf,
    major: u16,
    minor: u16,
    /// When `postgres` in `directory` was last written, in nanoseconds since 1970. A different
    /// time means that another version may be installed there.
    modified: u128,
}

/// The programs for existing data: those of the last start if they are unchanged.
pub(super) async fn of_data(place: &Directory, discovery: &Discovery) -> Result<Programs> {
    let major = match place.grandchild(HOME, DATA)? {
        Some(data) => initialize::major(&data)?,
        None => None,
    };
    match marker(place)? {
        Some(marker) if Some(marker.major) == major => Ok(marker.into()),
        _ => find(place, discovery, major).await,
    }
}

/// The programs for new data: those of the newest installed version.
pub(super) async fn newest(discovery: &Discovery) -> Result<Programs> {
    let engines = discovery.engines().await?;
    let newest = discover::by_major(&engines).into_values().next_back();
    let engine = newest.ok_or_else(|| {
        let message = "no PostgreSQL is installed; `howdah doctor` says how to get one";
        Error::new(Reason::PostgresqlNotFound, message)
    })?;
    Ok(engine.into())
}

/// A directory of programs and their version.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) directory: PathBuf,
    pub(super) version: Version,
}

impl From<Marker> for Programs {
    fn from(marker: Marker) -> Self {
        Self {
            directory: marker.directory,
            version: Version {
                major: marker.major,
                minor: marker.minor,
            },
        }
    }
}

impl From<&Engine> for Programs {
    fn from(engine: &Engine) -> Self {
        Self {
            directory: engine.directory.clone(),
            version: engine.version,
        }
    }
}

/// Finds the newest programs of the data's major version, and records them.
async fn find(place: &Directory, discovery: &Discovery, major: Option<u16>) -> Result<Programs> {
    let engines = discovery.engines().await?;
    let newest = major.and_then(|major| discover::by_major(&engines).remove(&major));
    let engine = newest.ok_or_else(|| {
        let major = major.map_or_else(|| "unknown".to_owned(), |major| major.to_string());
        let message = format!(
            "the metadata was made with PostgreSQL {major}, which is not installed any more"
        );
        Error::new(Reason::MetadataEngineMissing, message)
    })?;
    let programs = engine.into();
    remember(place, &programs)?;
    Ok(programs)
}

/// The recorded programs, if they were not replaced since.
fn marker(place: &Directory) -> Result<Option<Marker>> {
    let bytes = place.read(MARKER)?.unwrap_or_default();
    let marker = serde_json::from_slice::<Marker>(&bytes).ok();
    Ok(marker.filter(|marker| modified(&marker.directory) == Some(marker.modified)))
}

/// Records the programs of this start.
pub(super) fn remember(place: &Directory, programs: &Programs) -> Result<()> {
    let marker = Marker {
        directory: programs.directory.clone(),
        major: programs.version.major,
        minor: programs.version.minor,
        modified: modified(&programs.directory).unwrap_or_default(),
    };
    let json = serde_json::to_vec(&marker)
        .map_err(|error| Error::internal("cannot write a marker").with_source(error))?;
    place.replace(MARKER, &json, 0o600, RunAs::Ourselves, || ())
}

fn modified(programs: &Path) -> Option<u128> {
    let facts = std::fs::metadata(programs.join("postgres")).ok()?;
    let since = facts.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_nanos())
}
