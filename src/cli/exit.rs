//! Exit codes and failures of commands.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde_json::json;
use tonic::Code;

use super::{
    arguments::Output,
    explain,
    output::{clean, data},
};
use crate::{
    client,
    config::{self, Kind},
    domain::Reason,
};

/// The exit codes, for `--help`.
pub(super) const HELP: &str = "\
Exit codes:
    0  done
    1  failed in a way that has no code of its own
    2  the command line, a setting or an argument is wrong
    3  not found
    4  exists already, or lost against another operation
    5  not possible in the present state
    6  the server or something that it needs is away
    7  not allowed, or not authenticated
    8  the operation was accepted and failed
    9  the time is over; an operation goes on
   10  a quota or a range is used up
  130  interrupted; an operation goes on";

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Success = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Conflict = 4,
    Precondition = 5,
    Unavailable = 6,
    Denied = 7,
    OperationFailed = 8,
    TimeOver = 9,
    Exhausted = 10,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command has failed. It is printed to standard error.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    message: String,
    reason: String,
    /// Additional lines, such as invalid fields.
    notes: Vec<String>,
    /// Whether to print JSON whatever the output format is.
    as_json: bool,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            reason: String::new(),
            notes: Vec::new(),
            as_json: false,
        }
    }

    /// Prints one line of JSON, for a command whose log lines are JSON.
    pub(super) fn in_json(mut self) -> Self {
        self.as_json = true;
        self
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Whether the server, or something that it needs, is unavailable.
    pub(super) fn is_unavailable(&self) -> bool {
        self.exit == Exit::Unavailable
    }

    /// Prints the failure to standard error, and returns the exit code.
    pub(super) fn report(&self, output: Output) -> ExitCode {
        if self.exit == Exit::Success {
            return self.exit.into();
        }
        // If standard error is closed, nothing can be done.
        let _ = match output {
            _ if self.as_json => writeln!(io::stderr(), "{}", self.json()),
            Output::Json => writeln!(io::stderr(), "{}", self.json()),
            Output::Yaml => match data(&self.json(), output) {
                Ok(text) => writeln!(io::stderr(), "{text}"),
                Err(_) => write!(io::stderr(), "{}", self.text()),
            },
            _ => write!(io::stderr(), "{}", self.text()),
        };
        self.exit.into()
    }

    fn json(&self) -> serde_json::Value {
        json!({ "error": {
            "message": self.message,
            "reason": self.reason,
            "notes": self.notes,
            "exitCode": self.exit as u8,
        }})
    }

    fn text(&self) -> String {
        let lines: Vec<String> = self.message.split('\n').map(clean).collect();
        let mut text = format!("error: {}\n", lines.join("\n       "));
        for note in &self.notes {
            text.push_str(&format!("       {note}\n"));
        }
        if !self.reason.is_empty() {
            let reason = &self.reason;
            let more = match explain::is_known(reason) {
                true => format!(", see `howdah explain {reason}`"),
                // A newer server may have sent a reason that is unknown here.
                false => String::new(),
            };
            text.push_str(&format!("reason: {reason}{more}\n"));
        }
        text
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        let message = error.to_string();
        match error {
            client::Error::Options(_) => Self::new(Exit::Usage, message),
            client::Error::Unreachable {
                without_tls: true, ..
            } => Self::new(Exit::Unavailable, message)
                .note("the server there does not speak TLS: http:// calls it without"),
            client::Error::Unreachable { .. } if message.contains("invalid peer certificate") => {
                Self::new(Exit::Unavailable, message)
                    .note("--ca names the authorities that the server's certificate is checked by")
            }
            client::Error::Unreachable { .. } => Self::new(Exit::Unavailable, message)
                .note("is `howdah serve` running there? --endpoint names another place"),
            client::Error::Call(failure) if failure.message.contains("h2 protocol error") => {
                Self::new(Exit::Unavailable, message).note(
                    "what answers there does not speak gRPC in plain text: https:// calls it by \
                     TLS, with --ca for an authority of your own",
                )
            }
            client::Error::Call(failure) => {
                let exit = match failure.reason == Reason::StreamLost.as_str() {
                    // Elsewhere ABORTED means a conflict. Here the server of the stream has gone
                    // away.
                    true => Exit::Unavailable,
                    false => exit_of(failure.code),
                };
                Self::of_call(exit, *failure)
            }
            client::Error::Operation { name, failure } => {
                Self::of_call(Exit::OperationFailed, *failure).note(format!("operation: {name}"))
            }
            client::Error::NotDone { .. } => Self::new(Exit::TimeOver, message),
            client::Error::Unexpected(_) => Self::new(Exit::Failed, message),
        }
    }
}

impl Failure {
    fn of_call(exit: Exit, failure: client::Failure) -> Self {
        let mut notes: Vec<String> = Vec::new();
        let fields = failure.fields.iter();
        // What the message contains already is not repeated.
        let said = |text: &str| failure.message.contains(text);
        notes.extend(fields.filter_map(|(field, why)| match said(why) {
            true if said(field) => None,
            true => Some(format!("field: {field}")),
            false => Some(format!("{field}: {why}")),
        }));
        if !failure.resource.is_empty() && !failure.message.contains(&failure.resource) {
            notes.push(format!("resource: {}", failure.resource));
        }
        if exit == Exit::Unavailable && failure.reason.is_empty() {
            notes.push("is `howdah serve` running there? --endpoint names another place".into());
        }
        if let Some(delay) = failure.retry_after {
            notes.push(format!("try again in {:.1} s", delay.as_secs_f64()));
        }
        Self {
            reason: failure.reason.clone(),
            notes,
            ..Self::new(exit, failure.to_string())
        }
    }
}

const fn exit_of(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Success,
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists | Code::Aborted => Exit::Conflict,
        Code::FailedPrecondition => Exit::Precondition,
        Code::Unavailable => Exit::Unavailable,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
        Code::DeadlineExceeded => Exit::TimeOver,
        Code::ResourceExhausted => Exit::Exhausted,
        Code::Cancelled | Code::Unimplemented | Code::Internal | Code::Unknown | Code::DataLoss => {
            Exit::Failed
        }
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&config::Error> for Failure {
    fn from(error: &config::Error) -> Self {
        let exit = match error.kind() {
            Kind::InvalidArgument => Exit::Usage,
            Kind::NotFound => Exit::NotFound,
            Kind::AlreadyExists | Kind::Aborted => Exit::Conflict,
            Kind::FailedPrecondition => Exit::Precondition,
            Kind::ResourceExhausted => Exit::Exhausted,
            Kind::PermissionDenied | Kind::Unauthenticated => Exit::Denied,
            Kind::Unavailable => Exit::Unavailable,
            Kind::DeadlineExceeded => Exit::TimeOver,
            // In this process only a signal cancels a command.
            Kind::Cancelled => Exit::Interrupted,
            Kind::Unimplemented | Kind::Internal => Exit::Failed,
        };
        let detail = error.internal_detail();
        Self {
            reason: error.reason().as_str().to_owned(),
            // This process is the server, so the user is its operator and may see the details.
            notes: Some(detail)
                .filter(|detail| !error.message().contains(detail))
                .into_iter()
                .collect(),
            ..Self::new(exit, error.message())
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast_ref::<config::Error>() {
            Some(known) => Self::from(known),
            None => Self::new(Exit::Failed, format!("{error:#}")),
        }
    }
}

/// A failure to write the output. A closed pipe, as with `head`, is not a failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Success, ""),
            _ => Self::new(Exit::Failed, format!("cannot write the output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_in_the_help() {
        let exits = [
            Exit::Success,
            Exit::Failed,
            Exit::Usage,
            Exit::NotFound,
            Exit::Conflict,
            Exit::Precondition,
            Exit::Unavailable,
            Exit::Denied,
            Exit::OperationFailed,
            Exit::TimeOver,
            Exit::Exhausted,
            Exit::Interrupted,
        ];
        for exit in exits {
            let line = format!("\n{:>5}  ", exit as u8);
            assert!(HELP.contains(&line), "{exit:?}");
        }
    }

    #[test]
    fn reasons_name_their_page() {
        let failure = Failure::from(anyhow::Error::new(config::error(&[])).context("at start"));
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.text().contains("`howdah explain CONFIG_INVALID`"));
    }
}
