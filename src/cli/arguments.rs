//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use super::{config, connection, databases, exit, instances, metadata, operations, streams, trash};
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

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Server: `HOST:PORT`, `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`
    #[arg(
        long,
        global = true,
        env = "HOWDAH_ENDPOINT",
        default_value = "127.0.0.1:7717"
    )]
    pub(super) endpoint: String,
    /// Project of short names
    #[arg(long, global = true, env = "HOWDAH_PROJECT", default_value = "default")]
    pub(super) project: String,
    /// Form of the output
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
    /// PEM file with the authorities of the server's certificate
    #[arg(long, global = true, env = "HOWDAH_CA", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) ca: Option<PathBuf>,
    /// PEM file with the client's certificate
    #[arg(long, global = true, env = "HOWDAH_CERT", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) cert: Option<PathBuf>,
    /// PEM file with the key of the client's certificate
    #[arg(long, global = true, env = "HOWDAH_KEY", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) key: Option<PathBuf>,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Tables, for people
    Table,
    /// JSON of the API's messages, for scripts
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve the API
    Serve(ServeArguments),
    /// Bring the metadata database to the newest schema, and end
    Migrate(BriefArguments),
    /// Back up and restore the embedded metadata
    #[command(subcommand)]
    Metadata(metadata::Command),
    /// Look after the data of removed servers on this host
    #[command(subcommand)]
    Trash(trash::Command),
    /// Say what this machine lacks to serve, and what to do about it
    Doctor(BriefArguments),
    /// Look at the settings of `serve`
    #[command(subcommand)]
    Config(config::Command),
    /// Print the completion script of a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Provision PostgreSQL instances
    #[command(subcommand, visible_alias = "instance")]
    Instances(instances::Command),
    /// Create databases in instances
    #[command(subcommand, visible_alias = "database")]
    Databases(databases::Command),
    /// Print how to connect to a database, with its password
    Connection(connection::Command),
    /// Look at long operations
    #[command(subcommand, visible_alias = "operation")]
    Operations(operations::Command),
    /// Follow the changes of a database
    #[command(subcommand, visible_alias = "stream")]
    Streams(streams::Command),
}
