//! `howdah trash`.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    arguments::Output,
    exit::{Exit, Failure},
    output::{Sheet, data},
    to_its_end,
};
use crate::{
    bootstrap::{self, Entry},
    config::{BriefArguments, Config},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the data of removed servers, with the settings of `serve`
    List(BriefArguments),
    /// Delete data in the trash at once
    Empty(Empty),
    /// Move the data of a server back to its place
    Restore(One),
    /// Stop a server that no record knows, and move its data to the trash
    Throw(One),
}

#[derive(Debug, Args)]
#[command(
    override_usage = "howdah trash empty [OPTIONS] <UID>...\n       howdah trash empty [OPTIONS] --all"
)]
pub(super) struct Empty {
    /// Servers whose data is deleted; with `--all`, none
    #[arg(value_name = "UID", required_unless_present = "all")]
    uids: Vec<Uuid>,
    /// Delete all that is in the trash
    #[arg(long, conflicts_with = "uids")]
    all: bool,
    #[command(flatten)]
    settings: BriefArguments,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// Server, as `howdah trash list` and `howdah doctor` show it
    #[arg(value_name = "UID")]
    uid: Uuid,
    #[command(flatten)]
    settings: BriefArguments,
}

pub(super) fn run(command: Command, output: Output) -> Result<Exit, Failure> {
    match command {
        Command::List(settings) => {
            let config = Config::load(&settings)?;
            let entries = to_its_end(bootstrap::trash_list(config))?;
            print(&Listed::Kept(&entries), output)?;
        }
        Command::Empty(Empty {
            uids,
            all,
            settings,
        }) => {
            let config = Config::load(&settings)?;
            let only = (!all).then(|| uids.into_iter().collect::<BTreeSet<_>>());
            let entries = to_its_end(bootstrap::trash_empty(config, only))?;
            print(&Listed::Deleted(&entries), output)?;
        }
        Command::Restore(One { uid, settings }) => {
            let config = Config::load(&settings)?;
            let place = to_its_end(bootstrap::trash_restore(config, uid))?;
            let text = format!("moved the data back to {}", place.display());
            say(&text, &json!({ "uid": uid, "place": place }), output)?;
        }
        Command::Throw(One { uid, settings }) => {
            let config = Config::load(&settings)?;
            to_its_end(bootstrap::trash_throw(config, uid))?;
            let text = format!("stopped {uid} and moved its data to the trash");
            say(&text, &json!({ "uid": uid }), output)?;
        }
    }
    Ok(Exit::Success)
}

/// Reports the result: on standard error for people, as JSON for programs.
fn say(text: &str, done: &Value, output: Output) -> Result<(), Failure> {
    match output {
        output if output.is_data() => writeln!(io::stdout(), "{}", data(done, output)?)?,
        // The command has succeeded even if this cannot be written.
        _ => drop(writeln!(io::stderr(), "{text}")),
    }
    Ok(())
}

/// Entries to print.
enum Listed<'a> {
    /// Entries that are in the trash.
    Kept(&'a [Entry]),
    /// Entries that were deleted by this command.
    Deleted(&'a [Entry]),
}

fn print(listed: &Listed<'_>, output: Output) -> Result<(), Failure> {
    let text = match (output.is_data(), listed) {
        (true, Listed::Kept(entries)) => rendered(entries.iter().map(kept).collect(), output)?,
        (true, Listed::Deleted(entries)) => rendered(entries.iter().map(object).collect(), output)?,
        (false, Listed::Kept(entries)) => {
            let header = ["UID", "THROWN AWAY", "DELETED AT", "BYTES"];
            Sheet::rows(header, entries.iter().map(row)).to_string()
        }
        (false, Listed::Deleted(entries)) => {
            let header = ["DELETED", "THROWN AWAY", "BYTES"];
            let row = |entry: &Entry| {
                let Entry {
                    uid,
                    throw_time,
                    bytes,
                    ..
                } = entry;
                [uid.to_string(), time(*throw_time), bytes.to_string()]
            };
            Sheet::rows(header, entries.iter().map(row)).to_string()
        }
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

fn rendered(entries: Vec<Value>, output: Output) -> Result<String, Failure> {
    data(&json!({ "entries": entries }), output)
}

fn object(entry: &Entry) -> Value {
    json!({
        "uid": entry.uid,
        "throwTime": time(entry.throw_time),
        "bytes": entry.bytes,
    })
}

/// Like [`object`], with the time of the planned deletion.
fn kept(entry: &Entry) -> Value {
    let mut kept = object(entry);
    if let Some(fields) = kept.as_object_mut() {
        let time = entry.delete_time.map(time);
        fields.insert("deleteTime".to_owned(), time.into());
    }
    kept
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
