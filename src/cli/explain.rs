//! `howdah explain`: prints the pages of `docs/errors`, which are part of the program.

use std::io::{self, Write};

use clap::Args;
use serde_json::json;

use super::{
    arguments::Output,
    conditions,
    exit::{Exit, Failure},
    output::Sheet,
};

/// Least similarity, from 0 to 1, of a reason that is suggested, and the bonus for a common
/// word.
const ALIKE: f64 = 0.8;
const HAS_WORD: f64 = 0.5;

include!(concat!(env!("OUT_DIR"), "/error_pages.rs"));

#[derive(Debug, Args)]
pub(super) struct Command {
    /// Reason of an error, such as `RESOURCE_BUSY`, or of a condition, such as `SERVER_ENDED`;
    /// those of errors are listed if it is left out
    reason: Option<String>,
}

pub(super) fn run(command: &Command, output: Output) -> Result<Exit, Failure> {
    let text = match &command.reason {
        None => list(output),
        Some(asked) => explain(asked, output)?,
    };
    writeln!(io::stdout(), "{}", text.trim_end())?;
    Ok(Exit::Success)
}

/// Whether there is a page for the reason. A newer server may have other reasons.
pub(super) fn is_known(reason: &str) -> bool {
    PAGES.iter().any(|(known, _)| *known == reason)
}

fn explain(asked: &str, output: Output) -> Result<String, Failure> {
    let wanted = asked.trim().to_ascii_uppercase().replace('-', "_");
    let found = PAGES.iter().find(|(reason, _)| *reason == wanted);
    let Some((reason, page)) = found else {
        let observed = conditions::of(&wanted);
        return match observed.is_empty() {
            true => Err(unknown(asked, &wanted)),
            false => Ok(conditions::render(&wanted, &observed, output)),
        };
    };
    Ok(match output {
        Output::Json | Output::Yaml => {
            json!({ "reason": reason, "code": code(page), "page": page }).to_string()
        }
        _ => (*page).to_owned(),
    })
}

fn unknown(asked: &str, wanted: &str) -> Failure {
    let failure = Failure::new(Exit::NotFound, format!("there is no reason `{asked}`"));
    let alike = similar(wanted);
    match alike.is_empty() {
        true => failure.note("`howdah explain` lists all of them"),
        false => failure.note(format!("similar: {}", alike.join(", "))),
    }
}

/// The reasons that resemble `wanted`, by their spelling or by a common word.
fn similar(wanted: &str) -> Vec<&'static str> {
    let words: Vec<&str> = wanted.split('_').filter(|word| word.len() > 2).collect();
    let reasons = PAGES.iter().map(|(reason, _)| *reason);
    let mut alike: Vec<(f64, &str)> = reasons
        .chain(conditions::reasons())
        .map(|reason| {
            let has_word = words.iter().any(|word| reason.contains(word));
            let likeness = strsim::jaro_winkler(wanted, reason);
            (likeness + if has_word { HAS_WORD } else { 0.0 }, reason)
        })
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .collect();
    alike.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    alike
        .into_iter()
        .map(|(_, reason)| reason)
        .take(5)
        .collect()
}

fn list(output: Output) -> String {
    let all = PAGES.iter().map(|(reason, page)| (*reason, code(page)));
    match output {
        Output::Json | Output::Yaml => {
            let all = all.map(|(reason, code)| json!({ "reason": reason, "code": code }));
            serde_json::Value::from_iter(all).to_string()
        }
        _ => {
            let rows = all.map(|(reason, code)| [reason.to_owned(), code.to_owned()]);
            Sheet::rows(["REASON", "GRPC CODE"], rows).to_string()
        }
    }
}

/// The gRPC code on a page, from its line `` gRPC code: `...` ``.
fn code(page: &str) -> &str {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("gRPC code: `"));
    line.and_then(|line| line.split('`').next())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Reason;

    #[test]
    fn every_reason_is_explained_with_its_code() {
        for reason in Reason::ALL {
            let page = explain(reason.as_str(), Output::Table).unwrap();
            assert!(
                page.starts_with(&format!("# {}\n", reason.as_str())),
                "{page}"
            );
            assert!(!code(&page).is_empty(), "{page}");
        }
        assert_eq!(PAGES.len(), Reason::ALL.len());
    }
}
