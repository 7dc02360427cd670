//! `howdah metadata`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand, ValueHint};

use super::{
    exit::{Exit, Failure},
    to_its_end,
};
use crate::{
    bootstrap::{self, Destination},
    config::{Config, ServeArguments},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a backup of the embedded metadata, with the settings of `serve`
    Backup(Backup),
    /// Put a backup in the place of the embedded metadata, which nobody may serve
    Restore(Restore),
}

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// File to write, or `-` for standard output
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    settings: ServeArguments,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// Backup to restore; only one that you trust, since it can hold any SQL
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, required_unless_present = "former")]
    file: Option<PathBuf>,
    /// Put back what was there before the last restore
    #[arg(long, conflicts_with = "file")]
    former: bool,
    #[command(flatten)]
    settings: ServeArguments,
}

pub(super) fn run(command: Command) -> Result<Exit, Failure> {
    let said = match command {
        Command::Backup(arguments) => backup(arguments)?,
        Command::Restore(arguments) => restore(arguments)?,
    };
    // Standard output may be the backup. Nobody may be reading this.
    let _ = io::stderr().write_all(said.as_bytes());
    Ok(Exit::Success)
}

fn backup(arguments: Backup) -> Result<String, Failure> {
    let config = Config::load(&arguments.settings)?;
    let place = config.data_dir.clone();
    let to = match arguments.file.as_os_str() == "-" {
        true => Destination::Stdout,
        false => Destination::File(arguments.file.clone()),
    };
    let backup = to_its_end(bootstrap::backup(config, to, arguments.force))?;
    let mut said = format!("backed up the metadata in {}", place.display());
    if let Some(bytes) = backup.bytes {
        said = format!("{said}: {}, {bytes} bytes", arguments.file.display());
    }
    let key = match &backup.secret_key {
        Some(file) => file.display().to_string(),
        None => "the secret key of the settings".to_owned(),
    };
    said.push_str(&format!(
        "\nkeep {key} too, apart from it: without the key the passwords in the backup cannot be \
         read\n"
    ));
    if !backup.secret_key_present {
        said.push_str(&format!("warning: {key} is missing\n"));
    }
    Ok(said)
}

fn restore(arguments: Restore) -> Result<String, Failure> {
    let config = Config::load(&arguments.settings)?;
    let place = config.data_dir.display().to_string();
    let Some(file) = arguments.file else {
        to_its_end(bootstrap::restore_former(config))?;
        return Ok(format!(
            "put back what was in {place} before the last restore; the same command undoes this\n"
        ));
    };
    let shown = file.display().to_string();
    let restored = to_its_end(bootstrap::restore(config, file))?;
    let mut said = format!(
        "restored the metadata in {place} from {shown}, a backup of PostgreSQL {}\n",
        restored.taken_from
    );
    if restored.replaced {
        said.push_str(
            "what was there before is kept until the next restore: `howdah metadata restore \
             --former` puts it back\n",
        );
    }
    Ok(said)
}
