//! `howdah doctor`: reports what this machine lacks, and what to type to correct it.

mod clock;
mod files;
mod locale;
mod network;
mod places;
mod privileges;

use std::io::{self, Write};

use serde_json::json;

use super::{
    arguments::Output,
    exit::{Exit, Failure},
    output::{clean, data},
};
use crate::{
    bootstrap,
    config::{self, Config, Finding, ServeArguments, Surroundings, finding::Status},
};

/// Runs all checks and prints the findings. Exits with [`Exit::Failed`] if a finding prevents
/// serving.
pub(super) async fn run(arguments: &ServeArguments, output: Output) -> Result<Exit, Failure> {
    let surroundings = Surroundings::of_process();
    let findings = match config::load(arguments, &surroundings) {
        Ok(loaded) => examine(&loaded.config, &surroundings).await,
        Err(problems) => problems
            .iter()
            .map(|problem| {
                let remedy = "see docs/configuration.md";
                Finding::fail("settings", problem.to_string(), remedy)
            })
            .collect(),
    };
    let text = match output {
        output if output.is_data() => data(&json!({ "findings": findings }), output)?,
        _ => text(&findings),
    };
    writeln!(io::stdout(), "{text}")?;
    let worst = findings.iter().map(|finding| finding.status).max();
    Ok(match worst {
        Some(Status::Fail) => Exit::Failed,
        Some(Status::Warn | Status::Skip | Status::Ok) | None => Exit::Success,
    })
}

async fn examine(config: &Config, surroundings: &Surroundings) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("settings", "can be read and fit together")];
    findings.extend(places::check(config));
    findings.extend(privileges::check(config, surroundings));
    findings.extend(network::check(config));
    findings.extend(files::check(config, surroundings));
    findings.extend(locale::check(surroundings));
    findings.push(clock::check(surroundings));
    findings.extend(bootstrap::doctor(config).await);
    findings
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|f| f.check.chars().count()).max();
    let width = width.unwrap_or_default();
    let mut lines = Vec::new();
    for finding in findings {
        let status = match finding.status {
            Status::Ok => "ok  ",
            Status::Skip => "skip",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        let (check, message) = (&finding.check, clean(&finding.message));
        lines.push(format!("{status}  {check:width$}  {message}"));
        if !finding.remedy.is_empty() {
            lines.push(format!(
                "      {:width$}  -> {}",
                "",
                clean(&finding.remedy)
            ));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_stand_below_their_findings() {
        let findings = [
            Finding::ok("clock", "goes"),
            Finding::fail("data directory", "is not writable", "sudo chown ..."),
        ];
        let expected = "ok    clock           goes\n\
                        FAIL  data directory  is not writable\n\
                        \u{20}                     -> sudo chown ...";
        assert_eq!(text(&findings), expected);
    }
}
