//! What all client commands use.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};

use super::{
    arguments::{Global, Output},
    endpoint,
    exit::{Exit, Failure},
    names::Names,
    output::{Sheet, json},
    progress::Progress,
    watch::Named,
};
use crate::{
    client::{self, Client, Wait},
    pb::google::longrunning::Operation,
};

/// How much longer than the requested wait the server may take for its response.
const GRACE: Duration = Duration::from_secs(2);

/// Pause between two polls of an operation while somebody watches.
const WATCHED_POLL: Duration = Duration::from_millis(250);

/// A connection, with the project of short names and the output format.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) names: Names,
    pub(super) output: Output,
}

impl Session {
    pub(super) async fn open(global: Global) -> Result<Self, Failure> {
        let output = global.output;
        let called = endpoint::called(global)?;
        let connected = Client::connect(&called.endpoint, &called.options).await;
        let client = connected.map_err(|error| match &called.found_in {
            Some(place) => Failure::from(error).note(format!("the endpoint is that of {place}")),
            None => Failure::from(error),
        })?;
        Ok(Self {
            client,
            names: Names::new(called.project),
            output,
        })
    }

    /// Prints a message: as JSON or YAML, or as the table that `sheet` makes.
    pub(super) fn print<M: prost::Message>(
        &self,
        full_name: &str,
        message: &M,
        sheet: impl FnOnce(&M, &Names) -> Sheet,
    ) -> Result<(), Failure> {
        let text = match self.output {
            output if output.is_data() => json::render(full_name, message, output)?,
            Output::Name => match json::name_of(full_name, message)? {
                Some(name) => self.names.short(&name),
                None => sheet(message, &self.names).to_string(),
            },
            _ => sheet(message, &self.names).to_string(),
        };
        Ok(writeln!(io::stdout(), "{text}")?)
    }

    /// Prints a list: the whole response for programs, otherwise a row per item.
    pub(super) fn print_list<M: prost::Message, I: Named>(
        &self,
        full_name: &str,
        message: &M,
        items: &[I],
        rows: impl FnOnce(&[I]) -> Sheet,
    ) -> Result<(), Failure> {
        let text = match self.output {
            output if output.is_data() => json::render(full_name, message, output)?,
            _ => self.listed(items, rows),
        };
        Ok(writeln!(io::stdout(), "{text}")?)
    }

    /// Items for people: only their names, or a row per item.
    pub(super) fn listed<I: Named>(&self, items: &[I], rows: impl FnOnce(&[I]) -> Sheet) -> String {
        if !self.prints_names() {
            return rows(items).to_string();
        }
        let names: Vec<String> = items.iter().map(|it| self.names.short(it.name())).collect();
        names.join("\n")
    }

    /// Whether only names shall be printed.
    pub(super) fn prints_names(&self) -> bool {
        self.output == Output::Name
    }

    /// Waits for an operation, with a progress bar if somebody watches.
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
            // Needed when the server does not answer.
            () = over(timeout) => Err(client::Error::NotDone { name: name.to_owned() }.into()),
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

    /// Prints a hint for people to standard error.
    pub(super) fn hint(&self, text: &str) {
        if !self.output.is_data() {
            // The command has succeeded even if this cannot be written.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}

/// Returns when the time of a wait is over; never if it has no limit.
async fn over(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout.saturating_add(GRACE)).await,
        None => std::future::pending().await,
    }
}
