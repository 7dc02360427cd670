//! Output on standard output: tables for people, JSON and YAML for programs.

pub(super) mod json;
mod sheet;

use serde_json::Value;

pub(super) use self::sheet::{Sheet, age, time, yes};
use super::{
    arguments::Output,
    exit::{Exit, Failure},
};

/// Formats a value for programs: as YAML if requested, otherwise as JSON on several lines.
pub(super) fn data(value: &Value, output: Output) -> Result<String, Failure> {
    let text = match output {
        Output::Yaml => serde_saphyr::to_string(value).map_err(|error| error.to_string()),
        _ => serde_json::to_string_pretty(value).map_err(|error| error.to_string()),
    };
    let text = text.map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(text.trim_end().to_owned())
}

/// Makes text safe for a terminal: control characters, which could move the cursor or start an
/// escape sequence, are escaped.
pub(super) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            cleaned.extend(character.escape_default());
        } else {
            cleaned.push(character);
        }
    }
    cleaned
}
