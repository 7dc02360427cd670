//! Extracts from PostgreSQL's log why a start failed, to show it to the caller.
//!
//! A user's server writes the log, so its contents are not trusted. What is shown is bounded,
//! has no control characters, and never comes from a line that may hold a password.

use std::collections::BTreeMap;

use crate::telemetry::fields;

/// Most characters that are shown.
const MOST: usize = 300;

/// Most complaints about the configuration that are shown.
const COMPLAINTS_MOST: usize = 3;

/// Most parameters that are named.
const PARAMETERS_MOST: usize = 3;

/// Least length of a quoted value that is matched with parameters. Shorter values match by
/// chance.
const QUOTED_LEAST: usize = 3;

/// Words that mark a line as secret: the values in it may be passwords.
const SECRET: &[&str] = &["passw", "secret", "credential", "scram-sha"];

/// Prefix of messages that the server writes before it has read its configuration.
const PROGRAM: &str = "postgres: ";

/// Text that replaces a secret line.
const HIDDEN: &str = "PostgreSQL's message is not shown, because it may hold a secret";

/// A line of the postmaster or of a background process. A line of a session has a user between
/// the process and the level. It is not parsed, because it says why a client was refused and not
/// why the server ended.
struct Line<'a> {
    process: &'a str,
    level: &'a str,
    text: &'a str,
}

impl<'a> Line<'a> {
    /// Parses `TIME [PROCESS] LEVEL:  TEXT`, the form that `log_line_prefix` in `configure` gives.
    fn read(line: &'a str) -> Option<Self> {
        let (head, rest) = line.split_once("] ")?;
        let (_, process) = head.split_once('[')?;
        let (level, text) = rest.split_once(": ")?;
        let is_level = level.bytes().all(|byte| byte.is_ascii_uppercase());
        is_level.then(|| Self {
            process,
            level,
            text: text.trim(),
        })
    }

    fn is_last(&self) -> bool {
        matches!(self.level, "FATAL" | "PANIC")
    }
}

/// Why a server ended: its last message in the log since its start, and those of `parameters`
/// that the message is about. None if the log has no such message.
pub(super) fn last(log: &str, parameters: &BTreeMap<String, String>) -> Option<String> {
    let lines: Vec<Line<'_>> = log.lines().filter_map(Line::read).collect();
    let Some(place) = lines.iter().rposition(Line::is_last) else {
        let mut lines = log.lines().rev();
        let early = lines.find_map(|line| line.strip_prefix(PROGRAM))?;
        return Some(shown(&[early.trim()]));
    };
    let fatal = lines.get(place)?;
    let of_process = |line: &&Line<'_>| line.process == fatal.process;
    let mut said = vec![fatal.text];
    if is_about_configuration(fatal.text) {
        let before = lines.iter().take(place).filter(of_process);
        let complaints = before.filter(|line| line.level == "LOG");
        let complaints: Vec<&str> = complaints
            .take(COMPLAINTS_MOST)
            .map(|line| line.text)
            .collect();
        if !complaints.is_empty() {
            said = complaints;
        }
    }
    // Hints and details are long, and may give wrong advice here. Only the parameters that they
    // name are used.
    let advice = lines.iter().skip(place).filter(of_process);
    let advice = advice.filter(|line| matches!(line.level, "HINT" | "DETAIL"));
    let named = of_parameters(&said, advice.map(|line| line.text), parameters);
    let words = shown(&said);
    Some(match named.is_empty() {
        true => words,
        false => format!("{words} (parameters: {})", named.join(", ")),
    })
}

/// Whether the postmaster refused its configuration. The lines before this one name the errors.
fn is_about_configuration(text: &str) -> bool {
    text.starts_with("configuration file") && text.ends_with("contains errors")
}

/// The error message in the output of a program such as initdb.
pub(super) fn complaint(output: &str) -> Option<String> {
    let marks = [": error: ", ": fatal: ", "FATAL:  ", "ERROR:  "];
    let text = output.lines().find_map(|line| {
        let after = |mark: &&str| line.split_once(*mark).map(|(_, text)| text);
        marks.iter().find_map(after)
    });
    text.map(|text| shown(&[text.trim()]))
}

fn shown(said: &[&str]) -> String {
    if said.iter().any(|text| is_secret(text)) {
        return HIDDEN.to_owned();
    }
    let text = said.join("; ");
    let text = fields::harmless(text);
    match text.char_indices().nth(MOST) {
        None => text,
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
    }
}

fn is_secret(text: &str) -> bool {
    let text = text.to_lowercase();
    SECRET.iter().any(|word| text.contains(word))
}

/// The user's parameters that the messages name, or whose value they quote.
fn of_parameters<'a>(
    said: &[&'a str],
    advice: impl Iterator<Item = &'a str>,
    parameters: &BTreeMap<String, String>,
) -> Vec<String> {
    let said_and_advised: Vec<String> = said
        .iter()
        .copied()
        .chain(advice)
        .map(str::to_lowercase)
        .collect();
    let quoted: Vec<&str> = said
        .iter()
        .flat_map(|text| text.split('"').skip(1).step_by(2))
        .filter(|text| text.len() >= QUOTED_LEAST)
        .collect();
    let is_named = |name: &str| said_and_advised.iter().any(|text| names(text, name));
    let is_quoted = |value: &str| quoted.iter().any(|text| value.contains(text));
    parameters
        .iter()
        .filter(|(name, value)| is_named(&name.to_lowercase()) || is_quoted(value))
        .take(PARAMETERS_MOST)
        .map(|(name, _)| name.clone())
        .collect()
}

/// Whether `name` occurs in `text` as a whole word.
fn names(text: &str, name: &str) -> bool {
    let is_part = |char: char| char.is_alphanumeric() || matches!(char, '_' | '.');
    let mut words = text.split(|char| !is_part(char));
    words.any(|word| word.trim_end_matches('.') == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "2026-11-29 21:51:10.124 UTC";

    fn set(parameters: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        parameters.iter().map(owned).collect()
    }

    #[test]
    fn the_parameters_that_the_words_are_about_are_named() {
        let parameters = set(&[
            ("shared_buffers", "500GB"),
            ("shared_preload_libraries", "auto_explain,nolib"),
            ("timezone", "Mars/Phobos"),
            ("work_mem", "4MB"),
        ]);
        let said = |log: &str| last(log, &parameters).unwrap();
        let log = format!(
            "{HEAD} [7] FATAL:  could not map anonymous shared memory: Cannot allocate memory\n\
             {HEAD} [7] HINT:  Perhaps reduce shared_buffers or max_connections.\n\
             {HEAD} [7] LOG:  database system is shut down\n"
        );
        assert_eq!(
            said(&log),
            "could not map anonymous shared memory: Cannot allocate memory (parameters: \
             shared_buffers)"
        );
        let log = format!(
            "{HEAD} [7] FATAL:  could not access file \"nolib\": No such file or directory"
        );
        assert_eq!(
            said(&log),
            "could not access file \"nolib\": No such file or directory (parameters: \
             shared_preload_libraries)"
        );
        let log = format!(
            "{HEAD} [6] LOG:  of a former try\n\
             {HEAD} [7] LOG:  invalid value for parameter \"TimeZone\": \"Mars/Phobos\"\n\
             {HEAD} [7] FATAL:  configuration file \"/x/howdah.conf\" contains errors\n"
        );
        assert_eq!(
            said(&log),
            "invalid value for parameter \"TimeZone\": \"Mars/Phobos\" (parameters: timezone)"
        );
    }

    #[test]
    fn sessions_and_secrets_are_not_shown() {
        let none = BTreeMap::new();
        let session = format!("{HEAD} [9] shop@shop FATAL:  the system is starting up");
        assert_eq!(last(&session, &none), None);
        assert_eq!(last("stopped waiting\n", &none), None);
        for secret in [
            "invalid value for parameter \"primary_conninfo\": \"host=x password=hunter2\"",
            "invalid value for parameter \"vault.Secret\": \"hunter2\"",
        ] {
            let log = format!(
                "{HEAD} [7] LOG:  {secret}\n\
                 {HEAD} [7] FATAL:  configuration file \"/x\" contains errors"
            );
            assert_eq!(last(&log, &none).unwrap(), HIDDEN);
        }
    }

    /// The postmaster writes this form before it knows its `log_line_prefix`.
    #[test]
    fn an_early_refusal_is_shown() {
        let said = "superuser_reserved_connections (3) must be less than max_connections (1)";
        let log = format!("postgres: {said}\n");
        assert_eq!(last(&log, &BTreeMap::new()).unwrap(), said);
        assert_eq!(last("nothing of that form\n", &BTreeMap::new()), None);
    }

    #[test]
    fn a_program_says_why_in_its_line_of_error() {
        let output = "creating directory ... ok\ninitdb: error: invalid locale name \"xx\"\n";
        let expected = "invalid locale name \"xx\"";
        assert_eq!(complaint(output).as_deref(), Some(expected));
        assert_eq!(complaint("fine"), None);
        let secret = "initdb: error: password prompt and password file";
        assert_eq!(complaint(secret).as_deref(), Some(HIDDEN));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_bounded_and_harmless(text in "\\PC*|[\\x00-\\x7f\u{202e}é]{0,2000}") {
            let log = format!("{HEAD} [7] FATAL:  {text}");
            if let Some(said) = last(&log, &set(&[("work_mem", &text)])) {
                prop_assert!(said.chars().count() <= MOST + 40);
                let harmful = said.contains(|c: char| c.is_control() || c == '\u{202e}');
                prop_assert!(!harmful);
            }
        }
    }
}
