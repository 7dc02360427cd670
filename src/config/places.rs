//! Directories whose defaults depend on the machine.

use std::path::{Path, PathBuf, absolute};

use super::{Config, Problem, Surroundings};

/// Whether a path was not set.
pub(super) fn unset(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// Fills in the directories that were not set and makes all of them absolute, since
/// servers have another working directory.
pub(super) fn settle(
    config: &mut Config,
    surroundings: &Surroundings,
    problems: &mut Vec<Problem>,
) {
    if unset(&config.data_dir) {
        match data_dir(surroundings) {
            Some(path) => config.data_dir = path,
            None => problems.push(Problem::new(
                "data_dir",
                "has no default without the environment variable HOME: set it",
            )),
        }
    }
    if unset(&config.local.root) {
        config.local.root = config.data_dir.join("local");
    }
    if unset(&config.local.run_directory) {
        config.local.run_directory = run_directory(surroundings);
    }
    let engines = config.local.engine_directories.iter_mut();
    let own = [
        &mut config.data_dir,
        &mut config.local.root,
        &mut config.local.run_directory,
    ];
    for path in own.into_iter().chain(engines) {
        if let Ok(whole) = absolute(&*path) {
            *path = whole;
        }
    }
}

impl Surroundings {
    /// The data directory of a process that is started here without further settings; none
    /// without a home.
    #[must_use]
    pub fn data_dir(&self) -> Option<PathBuf> {
        let given = self.variables.get("HOWDAH_DATA_DIR");
        match given.filter(|given| !given.is_empty()) {
            Some(given) => absolute(given).ok(),
            None => data_dir(self),
        }
    }
}

/// `/var/lib/howdah` for root, else the state directory of the XDG Base Directory
/// Specification.
fn data_dir(surroundings: &Surroundings) -> Option<PathBuf> {
    if surroundings.root {
        return Some("/var/lib/howdah".into());
    }
    let state = absolute_variable(surroundings, "XDG_STATE_HOME");
    let home = || absolute_variable(surroundings, "HOME").map(|home| home.join(".local/state"));
    state.or_else(home).map(|state| state.join("howdah"))
}

fn run_directory(surroundings: &Surroundings) -> PathBuf {
    if surroundings.root {
        return "/run/howdah".into();
    }
    match absolute_variable(surroundings, "XDG_RUNTIME_DIR") {
        Some(runtime) => runtime.join("howdah"),
        None => format!("/tmp/howdah-{}", surroundings.user).into(),
    }
}

/// Relative paths in XDG variables are invalid and to be ignored, says their
/// specification.
fn absolute_variable(surroundings: &Surroundings, name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(surroundings.variables.get(name)?);
    path.is_absolute().then_some(path)
}
