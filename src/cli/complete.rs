//! Completion in shells by the program itself, so that names of instances and databases can be
//! completed too. It calls the server that the options, the environment, the context or this
//! machine's data directory name.

use std::{
    ffi::{OsStr, OsString},
    future::Future,
    io,
    time::Duration,
};

use clap::{CommandFactory as _, Parser as _};
use clap_complete::{
    CompleteEnv, Shell,
    engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate},
    env::Shells,
};
use tokio::runtime::Runtime;

use super::{
    arguments::Arguments,
    exit::{Exit, Failure},
    session::Session,
};
use crate::pb::v1::{ListChangeStreamsRequest, ListDatabasesRequest, ListInstancesRequest};

/// Variable by which a shell requests completion.
const VARIABLE: &str = "_HOWDAH_COMPLETE";

/// Longest wait for names after the Tab key.
const LIMIT: Duration = Duration::from_secs(2);

/// Options that choose the server and the connection to it.
const OPTIONS: &[&str] = &[
    "--endpoint",
    "--context",
    "--project",
    "--ca",
    "--cert",
    "--key",
];

/// Most names that are offered.
const MOST: usize = 500;

/// Completes and exits, if a shell has requested that.
pub(super) fn answer_a_shell() {
    CompleteEnv::with_factory(Arguments::command)
        .var(VARIABLE)
        .bin("howdah")
        .completer("howdah")
        .complete();
}

/// The script that connects a shell to this completion.
pub(super) fn script(shell: Shell) -> Result<Vec<u8>, Failure> {
    let mut script = Vec::new();
    let shells = Shells::builtins();
    let unknown = || Failure::new(Exit::Usage, format!("there is no completion for {shell}"));
    let known = shells.completer(&shell.to_string()).ok_or_else(unknown)?;
    known.write_registration(VARIABLE, "howdah", "howdah", "howdah", &mut script)?;
    Ok(script)
}

/// Completes the name of an instance.
pub(super) fn instances() -> ArgValueCandidates {
    ArgValueCandidates::new(|| candidates(instance_names))
}

/// Completes the name of a database: first the instance, then the database in it.
pub(super) fn databases() -> ArgValueCompleter {
    inside(async |session, parent| {
        let request = ListDatabasesRequest {
            parent,
            ..ListDatabasesRequest::default()
        };
        let found = session.client.all_databases(request, MOST).await?;
        Ok(found.into_iter().map(|it| it.name).collect())
    })
}

/// The same for a change stream.
pub(super) fn change_streams() -> ArgValueCompleter {
    inside(async |session, parent| {
        let request = ListChangeStreamsRequest {
            parent,
            ..ListChangeStreamsRequest::default()
        };
        let found = session.client.all_change_streams(request, MOST).await?;
        Ok(found.into_iter().map(|it| it.name).collect())
    })
}

/// Completes the name of something in an instance, of which `list` answers the whole names.
fn inside(
    list: impl AsyncFn(&Session, String) -> Result<Vec<String>, Failure> + Send + Sync + 'static,
) -> ArgValueCompleter {
    ArgValueCompleter::new(move |typed: &OsStr| {
        let typed = typed.to_str().unwrap_or_default();
        let found = match typed.split_once('/') {
            None => candidates(async |session| {
                let names = instance_names(session).await?;
                Ok(names.into_iter().map(|name| format!("{name}/")).collect())
            }),
            Some((instance, _)) => candidates(async |session| {
                let names = list(session, session.names.instance(instance)?).await?;
                let names = names.iter().map(|name| session.names.short(name));
                Ok(names.collect())
            }),
        };
        let begins = |it: &CompletionCandidate| it.get_value().to_string_lossy().starts_with(typed);
        found.into_iter().filter(begins).collect()
    })
}

async fn instance_names(session: &Session) -> Result<Vec<String>, Failure> {
    let request = ListInstancesRequest {
        parent: session.names.project(),
        ..ListInstancesRequest::default()
    };
    let found = session.client.all_instances(request, MOST).await?;
    let names = found.iter().map(|it| session.names.short(&it.name));
    Ok(names.collect())
}

/// The names from the server; none if it does not answer in time.
fn candidates(
    ask: impl AsyncFnOnce(&Session) -> Result<Vec<String>, Failure>,
) -> Vec<CompletionCandidate> {
    let asked = async {
        let line = ["howdah".into(), "status".into()];
        let line = line.into_iter().chain(options(std::env::args_os()));
        let arguments = Arguments::try_parse_from(line).ok()?;
        let session = Session::open(arguments.global).await.ok()?;
        ask(&session).await.ok()
    };
    let names = within(asked).unwrap_or_default();
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// The options on the line that choose the server. The shell passes the line after `--`.
fn options(passed: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let line: Vec<OsString> = passed.skip_while(|word| word != "--").skip(1).collect();
    let mut options = Vec::new();
    let mut words = line.into_iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let (name, has_value) = match text.split_once('=') {
            Some((name, _)) => (name.to_owned(), true),
            None => (text.into_owned(), false),
        };
        if !OPTIONS.contains(&name.as_str()) {
            continue;
        }
        options.push(word);
        if !has_value {
            options.extend(words.next());
        }
    }
    options
}

fn within<T>(asked: impl Future<Output = Option<T>>) -> Option<T> {
    let runtime: io::Result<Runtime> = Runtime::new();
    let runtime = runtime.ok()?;
    runtime.block_on(async { tokio::time::timeout(LIMIT, asked).await.ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_the_line_hold() {
        let passed = "howdah -- howdah --context sec -o json instances --project=p delete x";
        let passed = passed.split(' ').map(OsString::from);
        assert_eq!(options(passed), ["--context", "sec", "--project=p"]);
    }
}
