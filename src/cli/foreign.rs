//! Refuses client options for commands that do not use them. Otherwise `serve --cert` would
//! silently serve without TLS.

use clap::{ArgMatches, parser::ValueSource};

use super::exit::{Exit, Failure};

/// Commands that do not call a server.
const LOCAL: &[&str] = &[
    "serve",
    "dev",
    "migrate",
    "metadata",
    "trash",
    "orphans",
    "doctor",
    "config",
    "explain",
    "completion",
];

/// Options that only calls use. Their variables may be set for every command.
const OF_CALLS: &[&str] = &["endpoint", "context", "project", "ca", "cert", "key"];

/// Refuses such an option if it was typed for a command that calls no server.
pub(super) fn refuse(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((command, of_command)) = matches.subcommand() else {
        return Ok(());
    };
    // `context add` takes the values of a context from these options.
    let is_context = command == "context" && of_command.subcommand_name() != Some("add");
    if !LOCAL.contains(&command) && !is_context {
        return Ok(());
    }
    // The instance of `orphans` may be given by a short name.
    let options = OF_CALLS
        .iter()
        .filter(|option| (command, **option) != ("orphans", "project"));
    match options
        .into_iter()
        .find(|option| is_typed(of_command, option))
    {
        None => Ok(()),
        Some(option) => Err(refusal(command, option)),
    }
}

/// Whether the option was typed for the command or for one of its subcommands.
fn is_typed(matches: &ArgMatches, option: &str) -> bool {
    let typed = matches.value_source(option) == Some(ValueSource::CommandLine);
    let below = matches.subcommand();
    typed || below.is_some_and(|(_, below)| is_typed(below, option))
}

fn refusal(command: &str, option: &str) -> Failure {
    let message = format!("`howdah {command}` calls no server: --{option} has no effect there");
    let failure = Failure::new(Exit::Usage, message);
    match (command, option) {
        ("serve", "cert" | "key" | "ca") => {
            failure.note("TLS of the server: --tls-certificate, --tls-key and --tls-client-ca")
        }
        ("serve", "endpoint") => failure.note("the address to serve at: --listen"),
        _ => failure,
    }
}
