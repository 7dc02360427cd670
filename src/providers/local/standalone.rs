//! Standalone backends: `postgres --single` on a data directory that has no postmaster.

use std::{path::PathBuf, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use tokio::io::AsyncWriteExt;

use super::{
    ADMIN,
    command::{self, Finished, command},
    failure,
    initialize::Plan,
};
use crate::{
    domain::{
        Error, Reason, Result,
        random::{Random, SystemSource},
    },
    pg::{scram, sql},
};

/// Longest run of a standalone backend, including crash recovery.
const LIMIT: Duration = Duration::from_secs(60);

/// Sets the password of `howdah_admin`. Single-user mode asks for no password: whoever can write
/// the data files can change it. The server gets only the SCRAM verifier.
pub(super) async fn set_password(
    plan: &Plan,
    data: PathBuf,
    password: &SecretString,
) -> Result<()> {
    let mut salt = [0; 16];
    SystemSource::default().fill(&mut salt)?;
    let verifier = SecretString::from(scram::verifier(password, &salt, scram::ITERATIONS));
    let statement = format!(
        "alter role {} password {};\n",
        sql::quote_identifier(ADMIN),
        sql::quote_literal(verifier.expose_secret())
    );
    let statement = SecretString::from(statement);
    run(plan, data, statement, command::OUTPUT).await?;
    Ok(())
}

/// Runs one line of SQL in a standalone backend. The backend ends with its input, so it also
/// ends when this process is killed.
pub(super) async fn run(
    plan: &Plan,
    data: PathBuf,
    statement: SecretString,
    most: usize,
) -> Result<Finished> {
    let program = plan.programs.join("postgres");
    let failed = |error| failure::program(error, &program);
    let mut backend = command(&program, plan.run_as);
    backend.arg("--single");
    if !plan.durable {
        // `-F` turns fsync off.
        backend.arg("-F");
    }
    let mut child = backend
        .arg("-D")
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
    // The exit status is 0 even after a failed statement.
    let refused = ["ERROR:", "FATAL:", "PANIC:"];
    if done.status.success() && !refused.iter().any(|word| done.errors.contains(word)) {
        return Ok(done);
    }
    Err(
        Error::new(Reason::ServerStartFailed, "a standalone backend failed")
            .with_context(done.errors),
    )
}
