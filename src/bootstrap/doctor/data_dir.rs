//! Checks the files of the data directory.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::Path,
};

use crate::{
    bootstrap::keys,
    config::{Config, Finding},
    domain::{Error, Reason},
    providers::local::{
        damages,
        embedded::{Trace, refuse_lost, trace},
    },
};

const CHECK: &str = "data files";

/// Files that a start reads or writes.
const FILES: [&str; 8] = [
    "secret.key",
    "metadata.password",
    "metadata.engine",
    "worker-id",
    "lock",
    "metadata.lock",
    "endpoint",
    "admin-endpoint",
];

/// Reports what a start would refuse, and a key file that other users can read.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let directory = &config.data_dir;
    let damages = damages(&config.local.root);
    let mut findings: Vec<Finding> = damages.iter().map(refusal).collect();
    if !directory.is_dir() {
        return findings;
    }
    let files = FILES.iter().map(|name| directory.join(name));
    findings.extend(files.filter_map(|path| file(&path)));
    if config.database_url.is_none() {
        findings.extend(embedded(config).err().map(|error| refusal(&error)));
        findings.extend(keys::exposed(config).map(|message| Finding::warn(CHECK, message, "")));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "nothing is missing or in the way"));
    }
    findings
}

/// Checks that the metadata has its key.
fn embedded(config: &Config) -> Result<(), Error> {
    refuse_lost(&config.data_dir)?;
    match trace(&config.data_dir)? {
        Trace::Present => keys::present(config).map(|_| ()),
        Trace::None | Trace::Lost => Ok(()),
    }
}

fn refusal(error: &Error) -> Finding {
    let page = format!("see docs/errors/{}.md", error.reason().as_str());
    match error.reason() {
        Reason::DataDirUnwritable => Finding::fail(
            CHECK,
            error.message(),
            "run it as the user that runs howdah serve",
        ),
        _ => Finding::fail(CHECK, error.message(), page),
    }
}

/// Reports what is wrong with a file; none if it is missing or fine.
fn file(path: &Path) -> Option<Finding> {
    let shown = path.display();
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            let message = format!("{shown} cannot be read: {error}");
            return Some(Finding::fail(CHECK, message, "correct its owner and mode"));
        }
    };
    if !found.is_file() {
        let message = format!("something else than a file is in the place of {shown}");
        return Some(Finding::fail(
            CHECK,
            message,
            "move it away; docs/metadata.md says what each file is",
        ));
    }
    let error = File::open(path).err()?;
    let message = format!("{shown} cannot be read: {error}");
    Some(Finding::fail(
        CHECK,
        message,
        "correct its owner and mode, or run this as the user that runs howdah serve",
    ))
}
