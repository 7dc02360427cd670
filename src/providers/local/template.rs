//! Template data directories. Ephemeral servers are created as copies of a template.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::digest;
use secrecy::SecretString;

use super::{
    TEMPLATE,
    command::{self, command},
    control::DATA,
    directory::{Directory, blocking},
    failure,
    initialize::Plan,
    lock::Lock,
    standalone,
    user::RunAs,
};
use crate::{
    domain::{
        Error, Reason, Result,
        engine::Engine,
        random::{Random, SystemSource},
    },
    failpoint,
};

/// Part of each template's name. Raise it when templates are made differently, so that templates
/// of earlier releases are not used.
const FORM: u32 = 1;

/// Longest run of a copy.
const LIMIT: Duration = Duration::from_secs(60);

/// Name of an installation's template: its version and a hash of its directory.
pub(super) fn name(engine: &Engine) -> String {
    format!("{}-{}", engine.version, mark(engine))
}

/// A short hash of an installation's directory, because a version may be installed several
/// times.
pub(super) fn mark(engine: &Engine) -> String {
    let text = format!("{FORM} {}", engine.directory.display());
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let bytes = hash.as_ref().iter().take(4);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// The home of the template; created if it is missing.
pub(super) async fn ensure(
    engine: &Engine,
    templates: PathBuf,
    name: String,
    run_as: RunAs,
    lock: Lock,
) -> Result<PathBuf> {
    let random = SystemSource::default();
    let home = templates.join(&name);
    let plan = Plan {
        programs: engine.directory.clone(),
        parent: templates,
        // Ends with a dot, so that it is not a prefix of another template's name.
        unfinished: format!("{name}.{}", random.uuid()?.as_simple()),
        leftovers: format!("{name}."),
        name,
        run_as,
        durable: false,
        points: &TEMPLATE,
        lock,
    };
    let present = match plan.present(engine.version.major).await {
        Err(error) if may_be_damaged(&error) => {
            tracing::warn!(%error, template = plan.name, "a template is damaged, it is made anew");
            let (templates, name) = (plan.parent.clone(), plan.name.clone());
            blocking(move || discard(&templates, &name)).await?;
            None
        }
        present => present?,
    };
    if present.is_none() {
        // This password is not kept: each copy gets its own.
        plan.initdb(&random.password()?).await?;
    }
    Ok(home)
}

/// Whether a copy may have failed because its template is damaged.
pub(super) fn may_be_damaged(error: &Error) -> bool {
    [
        Reason::ServerStartFailed,
        Reason::ServerMismatch,
        Reason::DataDirDamaged,
    ]
    .contains(&error.reason())
}

/// Removes a template, under its lock. It is renamed first, to what the next creation sweeps:
/// half a template is not copied.
pub(super) fn discard(templates: &Path, name: &str) -> Result<()> {
    let Some(templates) = Directory::below(templates)? else {
        return Ok(());
    };
    let doomed = format!("{name}.{}", SystemSource::default().uuid()?.as_simple());
    if templates.rename_present(name, &templates, &doomed)? {
        templates.remove_tree(&doomed)?;
    }
    Ok(())
}

/// Creates the planned home as a copy of a template, with its own password. Returns its system
/// identifier, which is the same as the template's.
pub(super) async fn clone(plan: &Plan, template: PathBuf, password: &SecretString) -> Result<u64> {
    let preparing = plan.clone();
    blocking(move || preparing.prepare(None)).await?;
    copy(plan, template).await?;
    failpoint::hit("local.initialize.after_clone");
    standalone::set_password(plan, plan.path().join(DATA), password).await?;
    let publishing = plan.clone();
    blocking(move || publishing.publish()).await
}

/// Copies the data of a template. File systems with reflinks share the blocks.
pub(super) async fn copy(plan: &Plan, template: PathBuf) -> Result<()> {
    let mut copying = command("cp".as_ref(), plan.run_as);
    copying
        .args(["-a", "--reflink=auto"])
        .arg(template.join(DATA))
        .arg(plan.path())
        .stdin(plan.lock.stdin()?);
    let done = command::run(&mut copying, LIMIT, command::OUTPUT).await;
    let done = done.map_err(|error| failure::program(error, "cp".as_ref()))?;
    if done.status.success() {
        return Ok(());
    }
    Err(failure::output(
        "copying a template",
        &plan.path(),
        &done.errors,
    ))
}
