//! `howdah trash`.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use serde_json::json;
use uuid::Uuid;

use super::{
    arguments::Output,
    exit::{Exit, Failure},
    output::Sheet,
    to_its_end,
};
use crate::{
    bootstrap::{self, Entry},
    config::{Config, ServeArguments},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the data of removed servers, with the settings of `serve`
    List(ServeArguments),
    /// Delete data in the trash at once
    Empty(Empty),
    /// Move the data of a server back to its place
    Restore(One),
    /// Stop a server that no record knows, and move its data to the trash
    Throw(One),
}

#[derive(Debug, Args)]
pub(super) struct Empty {
    /// Servers whose data is deleted
    #[arg(value_name = "UID", required_unless_present = "all")]
    uids: Vec<Uuid>,
    /// Delete all that is in the trash
    #[arg(long, conflicts_with = "uids")]
    all: bool,
    #[command(flatten)]
    settings: ServeArguments,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// Server, as `howdah trash list` and `howdah doctor` show it
    #[arg(value_name = "UID")]
    uid: Uuid,
    #[command(flatten)]
    settings: ServeArguments,
}

pub(super) fn run(command: Command, output: Output) -> Result<Exit, Failure> {
    match command {
        Command::List(settings) => {
            let config = Config::load(&settings)?;
            print(&to_its_end(bootstrap::trash_list(config))?, output)?;
        }
        Command::Empty(Empty {
            uids,
            all,
            settings,
        }) => {
            let config = Config::load(&settings)?;
            let only = (!all).then(|| uids.into_iter().collect::<BTreeSet<_>>());
            print(&to_its_end(bootstrap::trash_empty(config, only))?, output)?;
        }
        Command::Restore(One { uid, settings }) => {
            let config = Config::load(&settings)?;
            let place = to_its_end(bootstrap::trash_restore(config, uid))?;
            say(&format!("moved the data back to {}", place.display()));
        }
        Command::Throw(One { uid, settings }) => {
            let config = Config::load(&settings)?;
            to_its_end(bootstrap::trash_throw(config, uid))?;
            say(&format!("stopped {uid} and moved its data to the trash"));
        }
    }
    Ok(Exit::Success)
}

fn say(text: &str) {
    // The reader of this output may be gone.
    let _ = writeln!(io::stderr(), "{text}");
}

fn print(entries: &[Entry], output: Output) -> Result<(), Failure> {
    let text = match output {
        Output::Json => {
            let entries: Vec<_> = entries.iter().map(object).collect();
            serde_json::to_string_pretty(&json!({ "entries": entries }))
                .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?
        }
        Output::Table => Sheet::rows(
            ["UID", "THROWN AWAY", "DELETED AT", "BYTES"],
            entries.iter().map(row),
        )
        .to_string(),
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

fn object(entry: &Entry) -> serde_json::Value {
    json!({
        "uid": entry.uid,
        "throwTime": time(entry.throw_time),
        "deleteTime": entry.delete_time.map(time),
        "bytes": entry.bytes,
    })
}

fn row(entry: &Entry) -> [String; 4] {
    [
        entry.uid.to_string(),
        time(entry.throw_time),
        entry
            .delete_time
            .map_or_else(|| "is being deleted".into(), time),
        entry.bytes.to_string(),
    ]
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
