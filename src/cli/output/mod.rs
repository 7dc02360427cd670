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

/// A table for people, or the names alone of what its rows are about.
pub(super) fn written(sheet: &Sheet, output: Output) -> String {
    match output {
        Output::Name => sheet.names(),
        _ => sheet.to_string(),
    }
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

/// Quotes a value for a POSIX shell, if it needs quotes.
pub(super) fn quoted(value: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !value.is_empty() && value.chars().all(bare) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_a_shell() {
        for value in [
            "",
            "plain",
            "it's",
            "a&b?c=$d",
            "two words",
            "`x`",
            "postgres://u:p@h:1/d",
        ] {
            let script = format!("printf %s {}", quoted(value));
            let output = std::process::Command::new("sh")
                .args(["-c", &script])
                .output();
            assert_eq!(output.unwrap().stdout, value.as_bytes(), "{value}");
        }
    }
}
