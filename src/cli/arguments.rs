//! The arguments of the command line. Doc comments of clap's types are the texts of `--help`.

use std::{convert::Infallible, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use super::{
    audit, config, connection, databases, exit, explain, instances, metadata, operations, orphans,
    psql, streams, trash,
};
use crate::config::{BriefArguments, ServeArguments};

/// A gRPC control plane for PostgreSQL
#[derive(Debug, Parser)]
#[command(name = "howdah", version, max_term_width = 100, after_help = exit::HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Endpoint that is called if none is given.
pub(super) const DEFAULT_ENDPOINT: &str = "127.0.0.1:7717";

/// Project of short names if none is given.
pub(super) const DEFAULT_PROJECT: &str = "default";

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Server: `HOST:PORT`, `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`
    ///
    /// Without it that of the context, else that of the process that serves from this user's
    /// data directory, else 127.0.0.1:7717.
    #[arg(long, global = true, env = "HOWDAH_ENDPOINT")]
    pub(super) endpoint: Option<String>,
    /// Context to take endpoint, project and TLS files from; `howdah context` keeps them
    #[arg(long, global = true, env = "HOWDAH_CONTEXT", value_name = "NAME")]
    pub(super) context: Option<String>,
    /// Project of short names: default, if nothing else is said
    #[arg(long, global = true, env = "HOWDAH_PROJECT")]
    pub(super) project: Option<String>,
    /// Form of the output
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
    /// PEM file with the authorities of the server's certificate
    #[arg(long, global = true, env = "HOWDAH_CA", value_name = "FILE", value_parser = file, value_hint = ValueHint::FilePath)]
    pub(super) ca: Option<PathBuf>,
    /// PEM file with the client's certificate
    #[arg(long, global = true, env = "HOWDAH_CERT", value_name = "FILE", value_parser = file, value_hint = ValueHint::FilePath)]
    pub(super) cert: Option<PathBuf>,
    /// PEM file with the key of the client's certificate
    #[arg(long, global = true, env = "HOWDAH_KEY", value_name = "FILE", value_parser = file, value_hint = ValueHint::FilePath)]
    pub(super) key: Option<PathBuf>,
}

/// Parses a path. A variable may be set to nothing, so an empty path counts as none.
fn file(text: &str) -> Result<PathBuf, Infallible> {
    Ok(PathBuf::from(text))
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Tables, for people
    Table,
    /// Tables with more columns
    Wide,
    /// Names alone, a line each
    Name,
    /// JSON of the API's messages, for scripts
    Json,
    /// The same as YAML
    Yaml,
}

impl Output {
    /// Whether the output is for programs: JSON or YAML.
    pub(super) const fn is_data(self) -> bool {
        matches!(self, Self::Json | Self::Yaml)
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve the API
    Serve(ServeArguments),
    /// Serve one PostgreSQL to try things with; all of it is gone at Ctrl-C
    Dev(super::dev::Command),
    /// Bring the metadata database to the newest schema, and end
    Migrate(BriefArguments),
    /// Back up and restore the embedded metadata
    #[command(subcommand)]
    Metadata(metadata::Command),
    /// Look after the data of removed servers on this host
    #[command(subcommand)]
    Trash(trash::Command),
    /// Drop what Howdah has made on servers of this host and no record knows
    #[command(subcommand)]
    Orphans(orphans::Command),
    /// Say what this machine lacks to serve, and what to do about it
    Doctor(BriefArguments),
    /// Name the servers that are called
    #[command(subcommand, alias = "contexts")]
    Context(super::context::Command),
    /// Look at the settings of `serve`
    #[command(subcommand)]
    Config(config::Command),
    /// Print the completion script of a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Say what the reason of an error means, and what to do
    Explain(explain::Command),
    /// Show how everything stands: what fails and why, what is under way, the disk
    Status,
    /// Provision PostgreSQL instances
    #[command(subcommand, alias = "instance")]
    Instances(instances::Command),
    /// Create databases in instances
    #[command(subcommand, alias = "database")]
    Databases(databases::Command),
    /// Print how to connect to a database, with its password
    Connection(connection::Command),
    /// Open a database with psql, as its owner
    Psql(psql::Command),
    /// Look at long operations
    #[command(subcommand, alias = "operation")]
    Operations(operations::Command),
    /// See who has changed what, and who has read which password
    #[command(subcommand)]
    Audit(audit::Command),
    /// Follow the changes of a database
    #[command(subcommand, alias = "stream")]
    Streams(streams::Command),
}
