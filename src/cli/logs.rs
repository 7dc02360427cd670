//! `howdah instances logs`.

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Args;
use serde_json::json;

use super::{exit::Failure, output::clean, session::Session, watch::patiently};
use crate::pb::v1::ReadInstanceLogRequest;

/// Pause before asking for the lines that were written since.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Command {
    /// Instance, such as orders
    #[arg(add = super::complete::instances())]
    instance: String,
    /// Go on, and print what is written from now on
    #[arg(long, short)]
    follow: bool,
    /// Lines to begin with
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    lines: i32,
}

pub(super) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let mut request = ReadInstanceLogRequest {
        name: session.names.instance(&command.instance)?,
        line_count: command.lines,
        ..ReadInstanceLogRequest::default()
    };
    let mut is_away = false;
    loop {
        let read = session.client.read_instance_log(request.clone()).await;
        let read = read.map_err(Failure::from);
        let part = match command.follow {
            true => patiently(session, read, &mut is_away)?,
            false => Some(read?),
        };
        let lines = part.as_ref().map_or(&[][..], |part| &part.lines);
        print(session, lines)?;
        if !command.follow {
            return Ok(());
        }
        if lines.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
        if let Some(part) = part {
            request.position = part.next_position;
        }
    }
}

fn print(session: &Session, lines: &[String]) -> Result<(), Failure> {
    let mut text = String::new();
    for line in lines {
        match session.output.is_data() {
            true => text.push_str(&json!({ "line": line }).to_string()),
            false => text.push_str(&shown(line)),
        }
        text.push('\n');
    }
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Text for a terminal. PostgreSQL starts continuation lines with a tab, so tabs are kept.
fn shown(line: &str) -> String {
    let parts: Vec<String> = line.split('\t').map(clean).collect();
    parts.join("\t")
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_line_steers_no_terminal() {
        assert_eq!(shown("\tselect 1;\u{1b}[2J"), "\tselect 1;\\u{1b}[2J");
    }
}
