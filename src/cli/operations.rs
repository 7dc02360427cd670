//! `howdah operations`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    arguments::Output,
    exit::Failure,
    mutation,
    names::Names,
    output::{Sheet, age, time, yes},
    progress,
    session::Session,
    status::Trouble,
    watch::Named,
};
use crate::{
    client::unpack,
    config::duration,
    pb::{
        google::longrunning::{
            CancelOperationRequest, DeleteOperationRequest, GetOperationRequest,
            ListOperationsRequest, ListOperationsResponse, Operation, operation,
        },
        v1::OperationMetadata,
    },
};

/// `google.rpc.Code.CANCELLED`.
const CANCELLED: i32 = tonic::Code::Cancelled as i32;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List operations
    List(List),
    /// Show an operation
    Get {
        /// Operation: its id
        operation: String,
    },
    /// Wait until an operation is done, and print its result
    Wait {
        /// Operation: its id
        operation: String,
        /// Longest wait, such as 10m
        #[arg(long, value_parser = duration::parse)]
        timeout: Option<Duration>,
    },
    /// Ask an operation to stop and undo what it did
    Cancel {
        /// Operation: its id
        operation: String,
    },
    /// Forget a finished operation
    Delete {
        /// Operation: its id
        operation: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Filter, such as 'done = false'
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,
    /// Those that are under way: the same as --filter 'done = false'
    #[arg(long, conflicts_with = "filter")]
    open: bool,
    /// Most operations to list, the newest first
    #[arg(long, default_value_t = 50, conflicts_with = "all")]
    limit: usize,
    /// List all of them
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(session: Session, command: Command) -> Result<(), Failure> {
    let name = |text: &str| session.names.operation(text);
    match command {
        Command::List(list) => list.run(&session).await,
        Command::Get { operation } => {
            let request = GetOperationRequest {
                name: name(&operation)?,
            };
            let found = session.client.get_operation(request).await?;
            session.print("google.longrunning.Operation", &found, sheet)
        }
        Command::Wait { operation, timeout } => {
            let done = session.wait(&name(&operation)?, timeout).await?;
            mutation::print(&session, &done)
        }
        Command::Cancel { operation } => {
            let request = CancelOperationRequest {
                name: name(&operation)?,
            };
            cancel(&session, request).await
        }
        Command::Delete { operation } => {
            let request = DeleteOperationRequest {
                name: name(&operation)?,
            };
            Ok(session.client.delete_operation(request).await?)
        }
    }
}

impl List {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let request = ListOperationsRequest {
            name: session.names.project(),
            filter: match self.open {
                true => "done = false".to_owned(),
                false => self.filter,
            },
            ..ListOperationsRequest::default()
        };
        let limit = match self.all {
            true => usize::MAX,
            false => self.limit,
        };
        // One more than requested, to find out whether there are more.
        let asked = limit.saturating_add(1);
        let mut operations = session.client.all_operations(request, asked).await?;
        let more = operations.len() > limit;
        operations.truncate(limit);
        let found = ListOperationsResponse {
            operations,
            ..ListOperationsResponse::default()
        };
        let full_name = "google.longrunning.ListOperationsResponse";
        session.print_list(full_name, &found, &found.operations, |items| {
            rows(items, &session.names, session.output)
        })?;
        if more {
            session.hint(&format!("the newest {limit}: --all lists all of them"));
        }
        Ok(())
    }
}

/// The metadata; empty if it is of another type, which a newer server may send.
fn metadata(operation: &Operation) -> OperationMetadata {
    let packed = operation.metadata.as_ref();
    packed
        .and_then(|packed| unpack(packed, "howdah.v1.OperationMetadata").ok())
        .unwrap_or_default()
}

/// State of an operation, as one word.
fn status(operation: &Operation, metadata: &OperationMetadata) -> &'static str {
    match &operation.result {
        Some(operation::Result::Error(error)) if error.code == CANCELLED => "CANCELLED",
        Some(operation::Result::Error(_)) => "FAILED",
        _ if operation.done => "DONE",
        _ if metadata.cancel_requested => "CANCELLING",
        _ => "RUNNING",
    }
}

/// Number of the present attempt at the stage, if an earlier one has failed.
fn attempt(metadata: &OperationMetadata) -> String {
    match (metadata.attempt, metadata.last_error.is_empty()) {
        (2.., false) => metadata.attempt.to_string(),
        _ => String::new(),
    }
}

fn stage(operation: &Operation, metadata: &OperationMetadata) -> String {
    match (operation.done, &operation.result) {
        (_, Some(operation::Result::Error(error))) => error.message.clone(),
        (true, _) => String::new(),
        (false, _) => progress::line(metadata),
    }
}

fn rows(operations: &[Operation], names: &Names, output: Output) -> Sheet {
    let row = |operation: &Operation| {
        let metadata = metadata(operation);
        [
            names.short(&operation.name),
            metadata.verb.clone(),
            names.short(&metadata.target),
            status(operation, &metadata).to_owned(),
            age(metadata.create_time.as_ref()),
            stage(operation, &metadata),
        ]
    };
    let header = ["ID", "VERB", "TARGET", "STATUS", "AGE", "STAGE"];
    if output != Output::Wide {
        return Sheet::rows(header, operations.iter().map(row));
    }
    let wide = |operation: &Operation| {
        let metadata = metadata(operation);
        let [id, verb, target, status, age, stage] = row(operation);
        let (created, ended) = (metadata.create_time.as_ref(), metadata.end_time.as_ref());
        [
            id,
            verb,
            target,
            status,
            age,
            time(created),
            time(ended),
            stage,
        ]
    };
    let header = [
        "ID", "VERB", "TARGET", "STATUS", "AGE", "CREATED", "ENDED", "STAGE",
    ];
    Sheet::rows(header, operations.iter().map(wide))
}

/// The name of the resource that an operation works on.
pub(super) fn target(operation: &Operation) -> String {
    metadata(operation).target
}

/// An operation in one line: what it does, and its stage or its error.
pub(super) fn brief(operation: &Operation, names: &Names) -> Trouble {
    let metadata = metadata(operation);
    let target = names.short(&metadata.target);
    let stage = stage(operation, &metadata);
    Trouble {
        name: format!("{} {target}", metadata.verb),
        text: stage,
    }
}

/// Requests the cancellation of an operation, and reports what has come of it.
async fn cancel(session: &Session, request: CancelOperationRequest) -> Result<(), Failure> {
    let name = request.name.clone();
    session.client.cancel_operation(request).await?;
    let found = session
        .client
        .get_operation(GetOperationRequest { name })
        .await?;
    session.hint(&cancelled(&found));
    Ok(())
}

/// The result of a requested cancellation.
fn cancelled(operation: &Operation) -> String {
    match (&operation.result, operation.done) {
        (Some(operation::Result::Error(error)), _) if error.code == CANCELLED => {
            "the operation is cancelled".to_owned()
        }
        (Some(operation::Result::Error(error)), _) => {
            let why = &error.message;
            format!("nothing was cancelled: the operation had ended, it failed: {why}")
        }
        (_, true) => "nothing was cancelled: the operation had ended, it succeeded".to_owned(),
        _ => "asked for; the operation ends when its stages are undone".to_owned(),
    }
}

impl Named for Operation {
    const TYPE: &'static str = "google.longrunning.Operation";

    fn name(&self) -> &str {
        &self.name
    }

    fn state_name(&self) -> &'static str {
        status(self, &metadata(self))
    }

    fn reconciling(&self) -> bool {
        !self.done
    }

    fn trouble(&self) -> String {
        metadata(self).last_error
    }
}

/// One operation as a table for people.
pub(super) fn sheet(operation: &Operation, names: &Names) -> Sheet {
    let metadata = metadata(operation);
    let mut fields = vec![
        ("id".into(), names.short(&operation.name)),
        ("verb".into(), metadata.verb.clone()),
        ("target".into(), names.short(&metadata.target)),
        ("status".into(), status(operation, &metadata).to_owned()),
        ("created".into(), time(metadata.create_time.as_ref())),
        ("ended".into(), time(metadata.end_time.as_ref())),
        ("can be cancelled".into(), yes(metadata.cancellable)),
        ("try".into(), attempt(&metadata)),
        ("last error".into(), metadata.last_error.clone()),
    ];
    if let Some(operation::Result::Error(error)) = &operation.result {
        fields.push(("error".into(), error.message.clone()));
    }
    fields.extend(metadata.stages.iter().map(|stage| {
        let state = stage.state().as_str_name().to_lowercase();
        (
            format!("stage {}", stage.name),
            match stage.waits_for.as_str() {
                "" => format!("{state}  {}", stage.title),
                what => format!("{state}  {}, waits for {what}", stage.title),
            },
        )
    }));
    Sheet::fields(fields)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::Any;

    use super::*;

    #[test]
    fn a_try_after_a_failure_is_numbered() {
        let show = |attempt, last_error: &str| {
            let metadata = OperationMetadata {
                attempt,
                last_error: last_error.into(),
                ..OperationMetadata::default()
            };
            let metadata = Any {
                type_url: "type.googleapis.com/howdah.v1.OperationMetadata".into(),
                value: metadata.encode_to_vec(),
            };
            let operation = Operation {
                metadata: Some(metadata),
                ..Operation::default()
            };
            sheet(&operation, &Names::new("default".into())).to_string()
        };
        let again = show(3, "the disk is full");
        let lines: Vec<Vec<&str>> = again
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert!(lines.contains(&vec!["try", "3"]), "{again}");
        assert!(again.contains("the disk is full"), "{again}");
        assert!(!show(1, "").contains("try"));
    }
}
