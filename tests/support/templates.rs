//! Templates of servers, which each program would make for itself. Those of one run share
//! them: to make one takes a second of CPU, to copy it a few hundredths.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use super::{howdah::watchdog, scratch};

/// Where they are kept, by the user that they belong to, and what removes them at the end
/// of the run.
static KEPT: LazyLock<Mutex<(PathBuf, Child)>> = LazyLock::new(|| {
    let place = scratch::directory("howdah-templates-").keep();
    let watchdog = watchdog(&place);
    Mutex::new((place, watchdog))
});

fn kept() -> MutexGuard<'static, (PathBuf, Child)> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies the template of another program below `local` before a server is made there.
pub fn lend(local: &Path) {
    let kept = kept();
    copy(&of_user(&kept.0, local), &local.join("templates"), local);
}

/// Keeps the template below `local` for other programs.
pub fn keep(local: &Path) {
    let kept = kept();
    let own = of_user(&kept.0, local);
    fs::create_dir_all(&own).unwrap();
    copy(&local.join("templates"), &own, &kept.0);
}

fn of_user(kept: &Path, local: &Path) -> PathBuf {
    let owner = fs::metadata(local).unwrap().uid();
    kept.join(owner.to_string())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Copies what is whole to where nothing is yet, by way of another name in `aside`.
fn copy(from: &Path, to: &Path, aside: &Path) {
    if !names(to).is_empty() {
        return;
    }
    let is_whole = |name: &String| name.rsplit('.').next().unwrap().len() != 32;
    let Some(name) = names(from).into_iter().find(is_whole) else {
        return;
    };
    let copy = aside.join("copy-of-a-template");
    let mut command = Command::new("cp");
    let copied = command.arg("-a").args([&from.join(&name), &copy]).status();
    assert!(copied.unwrap().success());
    fs::rename(copy, to.join(name)).unwrap();
}
