//! Commands that change a resource.

use std::{io, io::Write, time::Duration};

use clap::Args;

use super::{databases, exit::Failure, instances, operations, output::json, session::Session};
use crate::{
    client::unpack,
    config::duration,
    pb::google::longrunning::{Operation, operation},
};

/// What every command takes that changes something.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options of changes")]
pub(super) struct Mutation {
    /// Wait until it is done, and print the result
    #[arg(long)]
    pub(super) wait: bool,
    /// Longest wait, such as 10m; the operation goes on after it
    #[arg(long, value_parser = duration::parse, requires = "wait")]
    pub(super) timeout: Option<Duration>,
    /// UUID that makes a repeated call do the thing once
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) request_id: String,
    /// Check the request, but change nothing; some refusals come from the operation alone
    #[arg(long)]
    pub(super) validate_only: bool,
}

impl Mutation {
    /// Waits if `--wait` was given, and prints the result of the operation.
    pub(super) async fn finish(
        &self,
        session: &Session,
        operation: Operation,
    ) -> Result<(), Failure> {
        if self.validate_only {
            return valid(session, &operation);
        }
        let known = !operation.name.is_empty();
        let operation = if operation.done && operation.result.is_some() {
            operation
        } else if self.wait && known {
            session.wait(&operation.name, self.timeout).await?
        } else {
            operation
        };
        print(session, &operation)?;
        if !operation.done && known {
            let id = session.names.short(&operation.name);
            session.hint(&format!("`howdah operations wait {id}` waits for it"));
        }
        Ok(())
    }
}

/// Reports that a request was only checked, and prints what the resource would look like.
fn valid(session: &Session, operation: &Operation) -> Result<(), Failure> {
    session.hint("valid; nothing was changed");
    let empty = match &operation.result {
        Some(operation::Result::Response(response)) => response.value.is_empty(),
        _ => false,
    };
    // Printing `done` would mean that the resource is deleted.
    if empty && !session.output.is_data() {
        return Ok(());
    }
    print(session, operation)
}

/// Prints the result of a finished operation, otherwise the operation.
pub(super) fn print(session: &Session, operation: &Operation) -> Result<(), Failure> {
    let Some(operation::Result::Response(response)) = &operation.result else {
        let full_name = "google.longrunning.Operation";
        return session.print(full_name, operation, operations::sheet);
    };
    if session.output.is_data() {
        let text = json::render_any(response, session.output)?;
        return Ok(writeln!(io::stdout(), "{text}")?);
    }
    match response.type_url.rsplit('/').next().unwrap_or_default() {
        full_name @ "howdah.v1.Instance" => {
            session.print(full_name, &unpack(response, full_name)?, instances::sheet)
        }
        full_name @ "howdah.v1.Database" => {
            session.print(full_name, &unpack(response, full_name)?, databases::sheet)
        }
        _ => Ok(writeln!(io::stdout(), "done")?),
    }
}
