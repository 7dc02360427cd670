//! `howdah orphans`.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    arguments::{DEFAULT_PROJECT, Global, Output},
    exit::{Exit, Failure},
    names::Names,
    output::{clean, data},
    to_its_end,
};
use crate::{
    bootstrap,
    config::{BriefArguments, Config},
    domain::name::InstanceName,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List what Howdah has made on the server of an instance and no record knows
    List(List),
    /// Drop such objects from the server
    Drop(Drop),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Instance, such as orders
    instance: String,
    #[command(flatten)]
    settings: BriefArguments,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "howdah orphans drop [OPTIONS] <INSTANCE> <OBJECT>...\n       howdah orphans drop [OPTIONS] <INSTANCE> --all"
)]
pub(super) struct Drop {
    /// Instance, such as orders
    instance: String,
    /// Objects to drop, as `howdah orphans list` shows them, such as database/shop
    #[arg(value_name = "OBJECT", required_unless_present = "all")]
    objects: Vec<String>,
    /// Drop all that no record knows
    #[arg(long, conflicts_with = "objects")]
    all: bool,
    #[command(flatten)]
    settings: BriefArguments,
}

pub(super) fn run(command: Command, global: Global) -> Result<Exit, Failure> {
    let output = global.output;
    let project = global.project.filter(|project| !project.is_empty());
    let names = Names::new(project.unwrap_or_else(|| DEFAULT_PROJECT.to_owned()));
    let instance = |text: &str| -> Result<InstanceName, Failure> {
        let name = names.instance(text)?;
        name.parse()
            .map_err(|error| Failure::from(anyhow::Error::from(error)))
    };
    match command {
        Command::List(List {
            instance: of,
            settings,
        }) => {
            let config = Config::load(&settings)?;
            let found = to_its_end(bootstrap::orphans_list(config, instance(&of)?))?;
            print("objects", &found, output)?;
        }
        Command::Drop(Drop {
            instance: of,
            objects,
            all,
            settings,
        }) => {
            let config = Config::load(&settings)?;
            let only = (!all).then(|| objects.into_iter().collect::<BTreeSet<_>>());
            let dropped = to_its_end(bootstrap::orphans_drop(config, instance(&of)?, only))?;
            print("dropped", &dropped, output)?;
        }
    }
    Ok(Exit::Success)
}

/// A line for each object, or JSON.
fn print(what: &str, objects: &[String], output: Output) -> Result<(), Failure> {
    let text = match output.is_data() {
        true => format!("{}\n", data(&json!({ what: objects }), output)?),
        false => objects
            .iter()
            .map(|object| format!("{}\n", clean(object)))
            .collect(),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
