//! Runs the real program.

use std::{
    path::Path,
    process::{Command, Output},
};

/// What a run of the program gave.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Run {
    /// Stdout as JSON.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// The program with nothing of this process's environment but what it needs.
pub(super) fn command(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_howdah"));
    command.args(words).env_clear().env("HOME", home);
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command
}

/// Runs the program to its end.
pub(super) fn run(words: &[&str]) -> Run {
    let home = tempfile::tempdir().unwrap();
    command(home.path(), words).output().unwrap().into()
}
