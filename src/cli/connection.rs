//! `howdah connection`.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use clap::Args;

use super::{arguments::Output, exit::Failure, output::json, session::Session};
use crate::pb::v1::GetConnectionRequest;

#[derive(Debug, Args)]
pub(super) struct Command {
    /// Database, such as orders/shop
    database: String,
    /// Print lines NAME=VALUE for a shell or an env file, instead of the URL
    #[arg(long)]
    env: bool,
}

pub(super) async fn run(session: Session, command: Command) -> Result<(), Failure> {
    let name = session.names.database(&command.database)?;
    let request = GetConnectionRequest { name };
    let found = session.client.get_connection(request).await?;
    let mut stdout = io::stdout();
    if session.output == Output::Json {
        let text = json::render("howdah.v1.Connection", &found)?;
        return Ok(writeln!(stdout, "{text}")?);
    }
    if !command.env {
        return Ok(writeln!(stdout, "{}", found.uri)?);
    }
    let ordered: BTreeMap<_, _> = found.environment.iter().collect();
    for (name, value) in ordered {
        writeln!(stdout, "{name}={}", quoted(value))?;
    }
    Ok(())
}

/// A value as a POSIX shell reads it back, bare where that does.
fn quoted(value: &str) -> String {
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
