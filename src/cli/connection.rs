//! `howdah connection`.

use std::io::{self, Write};

use clap::{Args, ValueEnum};

use super::{arguments::Output, exit::Failure, output::json, session::Session};
use crate::pb::v1::{Connection, GetConnectionRequest};

#[derive(Debug, Args)]
pub(super) struct Command {
    /// Database, such as orders/shop
    #[arg(add = super::complete::databases())]
    database: String,
    /// Form of what is printed
    #[arg(long, value_enum, default_value_t = Format::Uri)]
    format: Format,
    /// The same as --format env
    #[arg(long, conflicts_with = "format")]
    env: bool,
}

/// A format of connection parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// URL of libpq and most drivers
    Uri,
    /// URL of JDBC
    Jdbc,
    /// Variables as lines of a POSIX shell
    Env,
    /// Variables as lines of a .env file
    Dotenv,
    /// The API's message
    Json,
    /// A line of ~/.pgpass
    Pgpass,
    /// A section of ~/.pg_service.conf
    Service,
}

pub(super) async fn run(session: Session, command: Command) -> Result<(), Failure> {
    let name = session.names.database(&command.database)?;
    let short = session.names.short(&name);
    let request = GetConnectionRequest { name };
    let found = session.client.get_connection(request).await?;
    let format = match command.env {
        true => Format::Env,
        false => command.format,
    };
    let text = match (session.output, format) {
        (output, _) if output.is_data() => json::render("howdah.v1.Connection", &found, output)?,
        (_, Format::Json) => json::render("howdah.v1.Connection", &found, Output::Json)?,
        (_, format) => format.text(&found, &short),
    };
    Ok(writeln!(io::stdout(), "{}", text.trim_end())?)
}

impl Format {
    /// The connection in this format. `name` is the short name of the database.
    fn text(self, found: &Connection, name: &str) -> String {
        let variables = |line: fn(&str) -> String| -> String {
            let lines = found.environment.iter();
            lines
                .map(|(name, value)| format!("{name}={}\n", line(value)))
                .collect()
        };
        let variable = |name: &str| found.environment.get(name).cloned().unwrap_or_default();
        match self {
            Self::Uri | Self::Json => found.uri.clone(),
            Self::Jdbc => variable("JDBC_DATABASE_URL"),
            Self::Env => variables(quoted),
            Self::Dotenv => variables(dotenv),
            Self::Pgpass => {
                let (host, port) = (found.host.clone(), found.port.to_string());
                let fields = [&host, &port, &found.database, &found.user, &found.password];
                fields.map(|field| escaped(field)).join(":")
            }
            Self::Service => {
                let section = name.replace(['/', '[', ']'], "_");
                let Connection {
                    host,
                    port,
                    database,
                    user,
                    password,
                    sslmode,
                    ..
                } = found;
                format!(
                    "[{section}]\nhost={host}\nport={port}\ndbname={database}\nuser={user}\n\
                     password={password}\nsslmode={sslmode}"
                )
            }
        }
    }
}

/// Escapes a field for `~/.pgpass`.
fn escaped(field: &str) -> String {
    field.replace('\\', r"\\").replace(':', r"\:")
}

/// Quotes a value for a `.env` file. All readers take text in single quotes literally. A value
/// with a single quote needs double quotes, in which readers handle backslashes like a shell.
fn dotenv(value: &str) -> String {
    match value.contains('\'') {
        false => format!("'{value}'"),
        true => {
            let value = value
                .replace('\\', r"\\")
                .replace('"', "\\\"")
                .replace('$', r"\$");
            format!("\"{value}\"")
        }
    }
}

/// Quotes a value for a POSIX shell, if it needs quotes.
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

    fn found() -> Connection {
        let environment = [
            ("JDBC_DATABASE_URL", "jdbc:postgresql://h:1/d"),
            ("PGUSER", "it's"),
        ];
        Connection {
            host: "::1".into(),
            port: 5432,
            database: "a:b".into(),
            user: r"u\x".into(),
            password: "p".into(),
            uri: "postgresql://u:p@h:1/d".into(),
            sslmode: "disable".into(),
            environment: environment
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        }
    }

    #[test]
    fn each_format_is_what_its_reader_takes() {
        let text = |format: Format| format.text(&found(), "orders/shop");
        assert_eq!(text(Format::Uri), "postgresql://u:p@h:1/d");
        assert_eq!(text(Format::Jdbc), "jdbc:postgresql://h:1/d");
        assert_eq!(text(Format::Pgpass), r"\:\:1:5432:a\:b:u\\x:p");
        assert_eq!(
            text(Format::Dotenv),
            "JDBC_DATABASE_URL='jdbc:postgresql://h:1/d'\nPGUSER=\"it's\"\n"
        );
        let service = text(Format::Service);
        assert!(
            service.starts_with("[orders_shop]\nhost=::1\nport=5432\n"),
            "{service}"
        );
        assert!(service.ends_with("\nsslmode=disable"), "{service}");
    }

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
