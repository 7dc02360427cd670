//! What every client command works with.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};

use super::{
    arguments::{Global, Output},
    exit::{Exit, Failure},
    names::Names,
    output::{Sheet, json},
    progress::Progress,
};
use crate::{
    client::{Client, Options, Wait},
    pb::google::longrunning::Operation,
};

/// Pause between two looks at an operation while somebody watches.
const WATCHED_POLL: Duration = Duration::from_millis(250);

/// A connection, and how to name and print things.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) names: Names,
    pub(super) output: Output,
}

impl Session {
    pub(super) async fn open(global: Global) -> Result<Self, Failure> {
        let options = Options {
            ca: global.ca,
            certificate: global.cert,
            key: global.key,
            ..Options::default()
        };
        Ok(Self {
            client: Client::connect(&global.endpoint, &options).await?,
            names: Names::new(global.project),
            output: global.output,
        })
    }

    /// Prints a message as JSON, or what `sheet` makes of it.
    pub(super) fn print<M: prost::Message>(
        &self,
        full_name: &str,
        message: &M,
        sheet: impl FnOnce(&M, &Names) -> Sheet,
    ) -> Result<(), Failure> {
        let text = match self.output {
            Output::Json => json::render(full_name, message)?,
            Output::Table => sheet(message, &self.names).to_string(),
        };
        Ok(writeln!(io::stdout(), "{text}")?)
    }

    /// Waits for an operation, with a bar when somebody watches.
    pub(super) async fn wait(
        &self,
        name: &str,
        timeout: Option<Duration>,
    ) -> Result<Operation, Failure> {
        let watched = io::stderr().is_terminal();
        let wait = Wait {
            timeout,
            poll: if watched {
                WATCHED_POLL
            } else {
                Wait::default().poll
            },
        };
        let progress = Progress::new(watched);
        let waited = self
            .client
            .wait(name, wait, |metadata| progress.show(metadata));
        let mut interrupt = signal(SignalKind::interrupt())
            .map_err(|error| Failure::new(Exit::Failed, format!("no signals: {error}")))?;
        let result = tokio::select! {
            waited = waited => waited.map_err(Failure::from),
            _ = interrupt.recv() => Err(self.interrupted(name)),
        };
        progress.clear();
        result
    }

    fn interrupted(&self, name: &str) -> Failure {
        let message = format!("interrupted; operation {name} goes on");
        let id = self.names.short(name);
        Failure::new(Exit::Interrupted, message)
            .note(format!("`howdah operations wait {id}` waits for it again"))
            .note(format!("`howdah operations cancel {id}` cancels it"))
    }

    /// Says something to people, beside the output.
    pub(super) fn hint(&self, text: &str) {
        if self.output == Output::Table {
            // The command has done its work, whoever listens.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}
