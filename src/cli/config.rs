//! `howdah config`.

use std::io::{self, Write};

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    arguments::Output,
    exit::{Exit, Failure},
    output::{Sheet, data},
};
use crate::config::{
    self, Loaded, Problem, ServeArguments, Surroundings, settings::SETTINGS, settings::Setting,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the settings that hold and where each came from, or what is wrong
    Check(ServeArguments),
    /// Print the JSON schema of the configuration file
    Schema,
}

pub(super) fn run(command: &Command, output: Output) -> Result<Exit, Failure> {
    let text = match command {
        Command::Schema => pretty(config::schema().as_value())?,
        Command::Check(arguments) => {
            let loaded = config::load(arguments, &Surroundings::of_process());
            check(&loaded.map_err(refused)?, output)?
        }
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(Exit::Success)
}

fn refused(problems: Vec<Problem>) -> Failure {
    Failure::from(config::error(&problems))
}

/// The effective settings, with secrets hidden.
fn check(loaded: &Loaded, output: Output) -> Result<String, Failure> {
    let effective = serde_json::to_value(&loaded.config)
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let rows = SETTINGS.iter().map(|setting| {
        let pointer = format!("/{}", setting.key.replace('.', "/"));
        let value = effective.pointer(&pointer).cloned().unwrap_or(Value::Null);
        let source = loaded.sources.get(setting.key.as_str());
        let source = source.map_or("default".to_owned(), ToString::to_string);
        (setting.key.clone(), value, source)
    });
    match output {
        output if output.is_data() => {
            let settings: serde_json::Map<String, Value> = rows
                .map(|(key, value, source)| (key, json!({ "value": value, "source": source })))
                .collect();
            data(&Value::Object(settings), output)
        }
        _ => {
            let row = |(key, value, source): (String, Value, String)| {
                let value = if value.is_null() {
                    String::new()
                } else {
                    Setting::show(&value)
                };
                [key, value, source]
            };
            Ok(Sheet::rows(["SETTING", "VALUE", "SOURCE"], rows.map(row)).to_string())
        }
    }
}

fn pretty(value: &Value) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}
