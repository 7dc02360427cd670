//! Runs PostgreSQL's programs: as another user, with a clean environment, and with bounds on
//! time and output.

use std::{
    env, io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

use super::user::RunAs;

/// Default bound on the output that is kept of a program, in bytes.
pub(crate) const OUTPUT: usize = 64 * 1024;

/// Environment variables that the programs inherit. `PG*` variables are not among them, because
/// they would change what the programs do; nor are variables that may hold a secret.
const KEPT: &[&str] = &["PATH", "TMPDIR", "TZ", "LD_LIBRARY_PATH"];

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// The end of its standard output.
    pub(crate) output: String,
    /// The end of its standard error.
    pub(crate) errors: String,
}

/// Builds the command of a program that runs as `user`, prints English messages and has no
/// input.
pub(crate) fn command(program: &Path, user: RunAs) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    for name in KEPT {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .env("LC_ALL", "C")
        // The working directory of Howdah may be closed to that user.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let RunAs::Other { uid, gid } = user {
        // The standard library drops the supplementary groups along with the uid.
        command.uid(uid).gid(gid);
    }
    command
}

/// Runs a program to its end. The program is killed after `limit`, or when the future is
/// dropped.
pub(crate) async fn run(
    command: &mut Command,
    limit: Duration,
    most: usize,
) -> io::Result<Finished> {
    finish(&mut command.kill_on_drop(true).spawn()?, limit, most).await
}

/// Waits for a program that was started already. The program is killed after `limit`.
pub(crate) async fn finish(
    child: &mut Child,
    limit: Duration,
    most: usize,
) -> io::Result<Finished> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = async {
        let (output, errors) = tokio::join!(tail(stdout, most), tail(stderr, most));
        Ok(Finished {
            status: child.wait().await?,
            output: output?,
            errors: errors?,
        })
    };
    match tokio::time::timeout(limit, ended).await {
        Ok(ended) => ended,
        Err(_) => {
            child.start_kill()?;
            child.wait().await?;
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

/// Reads to the end and keeps the last `most` bytes.
async fn tail(stream: Option<impl AsyncRead + Unpin>, most: usize) -> io::Result<String> {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        while stream.read_buf(&mut kept).await? > 0 {
            if kept.len() > 2 * most {
                kept.drain(..kept.len() - most);
            }
        }
    }
    kept.drain(..kept.len().saturating_sub(most));
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut shell = command(Path::new("/bin/sh"), RunAs::Ourselves);
        shell.args(["-c", script]);
        shell
    }

    #[tokio::test]
    async fn keeps_the_end_of_the_output() {
        let mut chatty = shell("seq 1 100000; echo bad >&2; exit 3");
        let done = run(&mut chatty, Duration::from_secs(20), 100)
            .await
            .unwrap();
        assert_eq!(done.status.code(), Some(3));
        assert_eq!(done.output.len(), 100);
        assert!(done.output.ends_with("99999\n100000\n"));
        assert_eq!(done.errors, "bad\n");
    }

    #[tokio::test]
    async fn kills_what_takes_too_long() {
        let done = run(&mut shell("exec sleep 60"), Duration::from_millis(50), 100).await;
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
