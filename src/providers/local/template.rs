//! Template data directories: servers that nobody will miss are copies of one.

use std::{path::PathBuf, time::Duration};

use aws_lc_rs::digest;
use secrecy::{ExposeSecret, SecretString};

use super::{
    ADMIN, TEMPLATE,
    command::{self, Finished, command},
    control::DATA,
    directory::blocking,
    failure,
    initialize::Plan,
    lock::Lock,
    user::RunAs,
};
use crate::{
    domain::{
        Error, Reason, Result,
        engine::Engine,
        random::{Random, SystemSource},
    },
    failpoint,
    pg::{scram, sql},
};

/// Raised when templates are made in another way, so that old ones are left alone.
const FORM: u32 = 1;

/// Longest that a copy or a standalone backend takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Name of an installation's template: its version, and a hash of where it lies.
pub(super) fn name(engine: &Engine) -> String {
    format!("{}-{}", engine.version, mark(engine))
}

/// A short hash that tells installations of the same version apart.
pub(super) fn mark(engine: &Engine) -> String {
    let text = format!("{FORM} {}", engine.directory.display());
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let bytes = hash.as_ref().iter().take(4);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// The template's home, made if it is not there.
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
        // Not a prefix of another template's name.
        unfinished: format!("{name}.{}", random.uuid()?.as_simple()),
        name,
        run_as,
        durable: false,
        points: &TEMPLATE,
        lock,
    };
    if plan.present(engine.version.major).await?.is_none() {
        // Nobody learns this password: each copy gets its own.
        plan.initdb(&random.password()?).await?;
    }
    Ok(home)
}

/// Makes the planned home as a copy of a template, with a password of its own, and
/// answers its system identifier, which is the template's.
pub(super) async fn clone(plan: &Plan, template: PathBuf, password: &SecretString) -> Result<u64> {
    let preparing = plan.clone();
    blocking(move || preparing.prepare(None)).await?;
    copy(plan, template).await?;
    failpoint::hit("local.initialize.after_clone");
    let mut salt = [0; 16];
    SystemSource::default().fill(&mut salt)?;
    let verifier = SecretString::from(scram::verifier(password, &salt, scram::ITERATIONS));
    let statement = format!(
        "alter role {} password {};\n",
        sql::quote_identifier(ADMIN),
        sql::quote_literal(verifier.expose_secret())
    );
    let data = plan.path().join(DATA);
    single(plan, data, SecretString::from(statement), command::OUTPUT).await?;
    let publishing = plan.clone();
    blocking(move || publishing.publish()).await
}

/// Copies a template's data; shares the blocks where the file system can.
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

/// Runs one line of SQL in a standalone backend on data that nobody serves. It ends
/// when its input does, so also when this process is killed.
pub(super) async fn single(
    plan: &Plan,
    data: PathBuf,
    statement: SecretString,
    most: usize,
) -> Result<Finished> {
    use tokio::io::AsyncWriteExt;

    let program = plan.programs.join("postgres");
    let failed = |error| failure::program(error, &program);
    let mut child = command(&program, plan.run_as)
        .args(["--single", "-F", "-D"])
        .arg(&data)
        .args(["-c", "log_min_error_statement=panic"])
        .args(["-c", "log_checkpoints=off", "postgres"])
        .stdin(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let input = child.stdin.take();
    let feed = async {
        let Some(mut input) = input else {
            return Ok(());
        };
        input
            .write_all(statement.expose_secret().as_bytes())
            .await?;
        input.shutdown().await
    };
    let (fed, done) = tokio::join!(feed, command::finish(&mut child, LIMIT, most));
    let done = done.map_err(failed)?;
    fed.map_err(failed)?;
    // Its status does not tell of a failed statement.
    let refused = ["ERROR:", "FATAL:", "PANIC:"];
    if done.status.success() && !refused.iter().any(|word| done.errors.contains(word)) {
        return Ok(done);
    }
    Err(Error::new(
        Reason::ServerStartFailed,
        "a standalone backend failed on a template",
    )
    .with_context(done.errors))
}
